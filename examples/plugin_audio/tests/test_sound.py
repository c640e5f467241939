"""What a sound is, and what is none."""

import io
import struct
import wave

import numpy as np
import pytest
from evenset_audio import Sound
from evenset_audio.waveform import encode_wav

from modalities import Rejected

TONE = (0.5 * np.sin(np.arange(8_000) / 5)).astype(np.float32)


def wav(values, width, channels=1, rate=8_000):
    """PCM of a width in bytes."""
    whole = (np.repeat(values, channels).astype(np.float64) * (2**31 - 1)).astype("<i4")
    data = whole.view(np.uint8).reshape(-1, 4)[:, 4 - width :]
    data = data ^ 128 if width == 1 else data
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(data.tobytes())
    return buffer.getvalue()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_every_width_of_pcm_is_the_same_sound(width, channels):
    payload = wav(TONE, width, channels)
    sound = Sound().decode(payload)
    np.testing.assert_allclose(sound.values, TONE, atol=2.0 ** (1 - 8 * width) + 1e-6)
    assert Sound().describe(sound, payload) == {"seconds": 1.0, "rate": 8_000, "channels": channels}


def test_what_is_written_is_read():
    sound = Sound().decode(encode_wav(TONE, 8_000))
    np.testing.assert_allclose(sound.values, TONE, atol=1e-4)


GOOD = encode_wav(TONE, 8_000)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty or damaged"),
        (b"RIFF", "empty or damaged"),
        (b"<html>no sound</html>" * 9, "no WAV of PCM"),
        (GOOD[: len(GOOD) // 2], "cut off"),
        (GOOD[:20] + struct.pack("<H", 3) + GOOD[22:], "no WAV of PCM"),
        (encode_wav(TONE[:0], 8_000), "The recording is empty"),
        (encode_wav(0 * TONE, 8_000), "silent"),
    ],
)
def test_what_is_no_sound_is_rejected_with_a_reason(payload, reason):
    with pytest.raises(Rejected, match=reason):
        Sound().decode(payload)
    assert reason.split()[-1] in Sound().show(payload, "x.wav")


def test_any_bytes_are_a_sound_or_rejected():
    random = np.random.default_rng(0)
    for _ in range(2_000):
        payload = bytearray(GOOD[:400])
        for place in random.integers(0, 60, 3):
            payload[place] = random.integers(256)
        try:
            values = Sound().decode(bytes(payload)).values
        except Rejected:
            continue
        assert np.isfinite(values).all()


def test_a_player_carries_its_sound_and_names_it_safely():
    long = np.tile(TONE, 60)
    shown = Sound().show(wav(long, 3, 2, 48_000), '"><script>alert(1)</script>.wav')
    assert "<audio controls" in shown
    assert 'src="data:audio/wav;base64,' in shown
    assert "<script" not in shown
    assert len(shown) < 250_000
