import pickle

import numpy as np
import pytest

from modalities import ModalityError, Rejected, encoder, modality

SMALL = "open_clip:ViT-S-32-alt/"


@pytest.fixture(scope="module", params=["image", "text"])
def made(request):
    found = pickle.loads(pickle.dumps(encoder(SMALL, modality(request.param), batch_size=4, device="cpu")))
    found.load()
    return found


def samples(made):
    if made.input_shape is None:
        return ["a cat", "a dog", "a very long caption " * 50, "", "house"]
    rng = np.random.default_rng(0)
    shapes = [(50, 80, 3), (1, 1, 1), (300, 20, 3), (5, 500, 1), (32, 32, 3)]
    return [rng.integers(0, 255, shape, dtype=np.uint8) for shape in shapes]


def test_both_towers_encode_in_fixed_shapes(made):
    prepared = [made.prepare(sample) for sample in samples(made)]
    if made.input_shape is not None:
        assert {(row.shape, row.dtype) for row in prepared} == {(made.input_shape, made.input_dtype)}
    rows, reasons = made.encode_all(prepared)
    assert rows.shape == (5, made.dim)
    assert not any(reasons)
    np.testing.assert_array_equal(rows, made.encode_all(prepared)[0])
    assert np.abs(rows[0] - rows[4]).max() > 1e-3


def test_random_weights_are_the_same_every_time(made):
    kind = "text" if made.input_shape is None else "image"
    twin = encoder(SMALL, modality(kind), batch_size=4, device="cpu")
    twin.load()
    prepared = [made.prepare(sample) for sample in samples(made)]
    np.testing.assert_array_equal(twin.encode_all(prepared)[0], made.encode_all(prepared)[0])


def test_weights_from_a_file(tmp_path):
    import torch

    first = encoder(SMALL, modality("image"), device="cpu", dtype="float32")
    first.load()
    path = tmp_path / "weights.pt"
    torch.save({key: value * 0.5 for key, value in first._model.state_dict().items()}, path)
    second = encoder(f"{SMALL}{path}", modality("image"), device="cpu", dtype="float32")
    second.load()
    batch = [first.prepare(np.zeros((9, 9, 3), np.uint8))]
    assert np.abs(first.encode(batch) - second.encode(batch)).max() > 1e-4
    path.write_bytes(b"not weights")
    with pytest.raises(ModalityError, match=r"weights\.pt"):
        second.load()


def test_bad_names_are_explained():
    for spec, reason in [
        ("ViT-B-33/openai", "did you mean ViT-B-32"),
        ("ViT-B-32/nothing", "openai"),
        ("ViT-B-32", "write"),
    ]:
        with pytest.raises(ModalityError, match=reason):
            encoder(f"open_clip:{spec}", modality("image"))


def test_only_grey_and_colour():
    with pytest.raises(Rejected, match="5 bands"):
        encoder(SMALL, modality("image")).prepare(np.zeros((4, 4, 5), np.uint8))
