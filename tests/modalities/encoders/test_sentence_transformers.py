import json
import pickle

import numpy as np
import pytest

from modalities import ModalityError, encoder, modality
from modalities.encoders.tokens import LENGTHS

from . import folders

TEXTS = [
    "A cat sleeps on the warm roof.", "The kitten is napping on top of the house.",
    "Interest rates rose by half a percent.", "x", "words " * 400, "Ünïcödé ✓ 漢字",
]  # fmt: skip

NAME = "sentence-transformers:all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def made():
    found = encoder(NAME, modality("text"), batch_size=4, device="cpu")
    found.load()
    return found


@pytest.fixture(scope="module")
def averaging():
    found = encoder(NAME, modality("text"), batch_size=4, device="cpu", dtype="float32", long_text="windows")
    found.load()
    return found


def ready(made, texts=TEXTS):
    return [made.prepare(text) for text in texts]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_it_knows_its_dimension_and_travels_before_it_is_loaded():
    found = encoder(NAME, modality("text"))
    assert pickle.loads(pickle.dumps(found)).dim == 384
    assert found.input_shape == (-1,)


def test_meaning_is_near(made):
    rows, reasons = made.encode_all(ready(made))
    assert rows.shape == (6, 384)
    assert reasons == [None] * 6
    rows = unit(rows)
    assert rows[0] @ rows[1] > 0.5 > rows[0] @ rows[2]


def test_it_agrees_with_the_library_itself(made):
    theirs = made._model.encode(TEXTS, batch_size=1, normalize_embeddings=True)
    ours = unit(made.encode_all(ready(made))[0])
    assert ((ours * theirs).sum(axis=1) > 0.995).all()  # bfloat16, other paddings


def test_the_same_part_gives_the_same_bits(made):
    np.testing.assert_array_equal(made.encode_all(ready(made))[0], made.encode_all(ready(made))[0])


def test_a_row_retried_alone_keeps_its_bits(made, monkeypatch):
    rows = ready(made)
    expected = made.encode_all(rows)[0]
    stage = made._stage

    def fail_on_x(batch, like):
        if any(np.array_equal(row, rows[3]) for row in batch):
            raise FloatingPointError("poison")
        return stage(batch, like)

    monkeypatch.setattr(made, "_stage", fail_on_x)
    found, reasons = made.encode_all(rows)
    assert [bool(reason) for reason in reasons] == [text == "x" for text in TEXTS]
    assert "poison" in reasons[3]
    assert np.isnan(found[3]).all()
    good = [row for row in range(6) if row != 3]
    np.testing.assert_array_equal(found[good], expected[good])


def test_a_broken_encoder_is_no_fault_of_the_samples(made, monkeypatch):
    def fail(ids, mask):
        raise MemoryError("too much")

    monkeypatch.setattr(made, "_texts", fail)
    with pytest.raises(RuntimeError, match=r"encoder\.batch_size"):
        made.encode_all(ready(made))


def test_shapes_come_from_a_short_list(made, monkeypatch):
    seen, texts = set(), made._texts
    monkeypatch.setattr(made, "_texts", lambda ids, mask: seen.add(tuple(ids.shape)) or texts(ids, mask))
    made.encode_all(ready(made, ["word " * n for n in range(1, 300, 7)]))
    assert {shape[0] for shape in seen} == {4}
    assert {shape[1] for shape in seen} <= set(LENGTHS)
    assert max(shape[1] for shape in seen) == made._model.max_seq_length


def test_what_is_longer_than_the_model_reads_is_marked(made, averaging):
    marked = [made.is_truncated(text, row) for text, row in zip(TEXTS, ready(made), strict=True)]
    assert marked == [text.startswith("words") for text in TEXTS]
    assert not any(averaging.is_truncated(t, row) for t, row in zip(TEXTS, ready(averaging), strict=True))


def test_windows_of_a_long_text_are_averaged_by_their_tokens(averaging):
    first, second = "A cat sleeps on the warm roof. " * 60, "Interest rates rose by half a percent. " * 20
    long = first + second
    (row,) = ready(averaging, [long])
    windows = averaging._takes._read(row)
    assert [len(window) for window in windows] == [256, 256, len(windows[2])]
    alone = [averaging.encode([np.array([*window, -1], np.int32)])[0] for window in windows]
    expected = np.average(alone, axis=0, weights=[len(window) for window in windows])
    short = ready(averaging, ["x", "A cat."])
    found = averaging.encode([short[0], row, short[1]])
    np.testing.assert_allclose(found[1], expected, atol=1e-5)
    np.testing.assert_array_equal(found[1], averaging.encode([short[0], row], like=[short[0], row])[1])
    # what the windows say is heard, where the first one alone knows nothing of it
    rates = unit(averaging.encode(ready(averaging, [second])))[0]
    assert unit(found)[1] @ rates > 2 * abs(alone[0] / np.linalg.norm(alone[0]) @ rates)


@pytest.fixture(params=[True, False], ids=["with its prompt", "without it"])
def prompted(request, tmp_path):
    """A small model with a default prompt, which its mean has a part in or not."""
    folder = folders.sentences(tmp_path / "prompted", include_prompt=request.param)
    about = {"prompts": {"query": "Question: ", "document": "Some text to file: "}}
    about["default_prompt_name"] = "document"
    (folder / "config_sentence_transformers.json").write_text(json.dumps(about))
    return folder, request.param


def small(folder, **options):
    found = encoder(
        f"sentence-transformers:local-dir:{folder}",
        modality("text"), batch_size=4, device="cpu", dtype="float32", **options,
    )  # fmt: skip
    found.load()
    return found


def test_a_default_prompt_stands_before_every_text_as_in_the_library(prompted):
    folder, _ = prompted
    found = small(folder)
    rows = found.encode_all(ready(found))[0]
    np.testing.assert_allclose(unit(rows), found._model.encode(TEXTS, batch_size=1), atol=1e-5)
    bare = found._model.encode(TEXTS, batch_size=1, prompt="")
    assert np.abs(unit(rows) - bare).max(axis=1).min() > 1e-3


def test_a_prompt_that_is_left_out_knows_no_windows(prompted):
    folder, heard = prompted
    if heard:
        assert np.isfinite(small(folder, long_text="windows").encode_all(ready(small(folder)))[0]).all()
    else:
        with pytest.raises(ModalityError, match=r"encoder\.long_text windows.*prompt"):
            small(folder, long_text="windows")


def test_models_that_are_not_there_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModalityError, match="no-such-model"):
        encoder("sentence-transformers:no-such-model", modality("text"))
    with pytest.raises(ModalityError, match="no sentence-transformers model"):
        encoder(f"sentence-transformers:{tmp_path}", modality("text"))
    with pytest.raises(ModalityError, match="no folder"):
        encoder(f"sentence-transformers:local-dir:{tmp_path}/none", modality("text"))
    with pytest.raises(ModalityError, match="lacks its model"):
        encoder("sentence-transformers", modality("text"))
