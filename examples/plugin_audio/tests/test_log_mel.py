"""The embedding of a sound."""

import numpy as np
import pytest
from evenset_audio import LogMel, Waveform
from evenset_audio.log_mel import BANDS, log_mel_spectrogram

from modalities import ModalityError

RATE = 16_000


def tone(hertz, seconds=1.0, rate=RATE):
    t = np.arange(int(seconds * rate)) / rate
    return Waveform(np.sin(2 * np.pi * hertz * t).astype(np.float32), rate, 1)


def test_a_tone_lies_in_the_band_of_its_pitch():
    loudest = [log_mel_spectrogram(tone(f)).mean(axis=0).argmax() for f in (200, 400, 800, 1600, 3200, 6400)]
    assert loudest == sorted(set(loudest))


def test_loudness_does_not_count():
    sound = tone(440)
    quiet = Waveform(sound.values * 0.01, RATE, 1)
    np.testing.assert_allclose(LogMel().prepare(sound), LogMel().prepare(quiet), atol=1e-3)


def test_the_rate_hardly_counts():
    one, two, other = (LogMel().prepare(s)[:BANDS] for s in (tone(440), tone(440, rate=44_100), tone(880)))
    assert np.linalg.norm(one - two) < np.linalg.norm(one - other) / 4


@pytest.mark.parametrize("samples", [1, 2, 100, 511, 513, 700_000])
@pytest.mark.parametrize("rate", [1, 50, 8_000, 192_000])
def test_a_sound_of_any_length_and_rate_has_an_embedding(samples, rate):
    values = np.random.default_rng(0).normal(size=samples).astype(np.float32)
    if samples > 513 and rate < 8_000:
        return  # hours of a few samples a second: not worth the time
    found = LogMel().prepare(Waveform(values, rate, 1))
    assert found.shape == (120,)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


def test_what_is_learned_makes_all_statistics_count_alike():
    encoder = LogMel(batch_size=7)
    random = np.random.default_rng(0)
    sounds = [tone(random.uniform(100, 4_000)) for _ in range(50)]
    state = encoder.fit(sounds, kmeans=None, seed=0)
    prepared = [encoder.prepare(sound) for sound in sounds]
    embeddings, reasons = encoder.encode_all(prepared)
    assert reasons == [None] * 50
    spread = embeddings.std(axis=0)
    assert np.all((abs(spread - 1) < 1e-3) | (spread == 0))
    assert np.count_nonzero(spread) > 60
    again = LogMel(batch_size=50)
    again.set_state(state)
    np.testing.assert_array_equal(again.encode_all(prepared)[0], embeddings)


def test_what_it_cannot_do_is_explained():
    with pytest.raises(ModalityError, match="no argument"):
        LogMel("40")
    with pytest.raises(ModalityError, match="float32"):
        LogMel(dtype="bfloat16")
    with pytest.raises(ModalityError, match="no sound"):
        LogMel().fit([], kmeans=None, seed=0)
    with pytest.raises(ModalityError, match="state"):
        LogMel().set_state({"mean": np.zeros(3)})
