import pickle

import numpy as np
import pytest

from modalities import ModalityError, encoder, modality

TEXTS = [
    "A cat sleeps on the warm roof.", "The kitten is napping on top of the house.",
    "Interest rates rose by half a percent.", "x", "words " * 400, "Ünïcödé ✓ 漢字",
]  # fmt: skip


@pytest.fixture(scope="module")
def made():
    found = encoder("sentence-transformers:all-MiniLM-L6-v2", modality("text"), batch_size=4, device="cpu")
    found.load()
    return found


def test_it_knows_its_dimension_and_travels_before_it_is_loaded():
    found = encoder("sentence-transformers:all-MiniLM-L6-v2", modality("text"))
    assert pickle.loads(pickle.dumps(found)).dim == 384
    assert found.input_shape is None


def test_meaning_is_near(made):
    rows, reasons = made.encode_all([made.prepare(text) for text in TEXTS])
    assert rows.shape == (6, 384)
    assert reasons == [None] * 6
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert rows[0] @ rows[1] > 0.5 > rows[0] @ rows[2]


def test_it_agrees_with_the_library_itself(made):
    theirs = made._model.encode(TEXTS, batch_size=1, normalize_embeddings=True)
    ours = made.encode_all(TEXTS)[0]
    ours = ours / np.linalg.norm(ours, axis=1, keepdims=True)
    assert ((ours * theirs).sum(axis=1) > 0.995).all()  # bfloat16, other paddings


def test_the_same_part_gives_the_same_bits(made):
    np.testing.assert_array_equal(made.encode_all(TEXTS)[0], made.encode_all(TEXTS)[0])


def test_a_row_retried_alone_keeps_its_bits(made, monkeypatch):
    expected = made.encode_all(TEXTS)[0]
    encode = made.encode

    def fail_on_x(batch, like=None):
        if "x" in batch:
            raise FloatingPointError("poison")
        return encode(batch, like)

    monkeypatch.setattr(made, "encode", fail_on_x)
    rows, reasons = made.encode_all(TEXTS)
    assert [bool(reason) for reason in reasons] == [text == "x" for text in TEXTS]
    assert "poison" in reasons[3]
    assert np.isnan(rows[3]).all()
    good = [row for row in range(6) if row != 3]
    np.testing.assert_allclose(rows[good], expected[good], atol=5e-3)


def test_a_broken_encoder_is_no_fault_of_the_samples(made, monkeypatch):
    def fail(batch, like=None):
        raise MemoryError("too much")

    monkeypatch.setattr(made, "encode", fail)
    with pytest.raises(RuntimeError, match=r"encoder\.batch_size"):
        made.encode_all(TEXTS)


def test_shapes_come_from_a_short_list(made):
    seen = set()
    forward = made._model.forward
    made._model.forward = lambda features, *a, **k: seen.add(features["input_ids"].shape) or forward(features)
    try:
        made.encode_all(["word " * n for n in range(1, 300, 7)])
    finally:
        made._model.forward = forward
    assert {shape[0] for shape in seen} == {4}
    from modalities.encoders.sentence_transformers import LENGTHS

    assert {shape[1] for shape in seen} <= set(LENGTHS)
    assert max(shape[1] for shape in seen) == made._model.max_seq_length


def test_models_that_are_not_there_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModalityError, match="no-such-model"):
        encoder("sentence-transformers:no-such-model", modality("text"))
    with pytest.raises(ModalityError, match="no sentence-transformers model"):
        encoder(f"sentence-transformers:{tmp_path}", modality("text"))
    with pytest.raises(ModalityError, match="lacks its model"):
        encoder("sentence-transformers", modality("text"))
