import json
import pickle

import numpy as np
import pytest

from modalities import ModalityError, Rejected, encoder, modality

from . import folders
from .folders import picture

SMALL = "open_clip:ViT-S-32-alt/"


@pytest.fixture(scope="module", params=["image", "text"])
def made(request):
    found = pickle.loads(pickle.dumps(encoder(SMALL, modality(request.param), batch_size=4, device="cpu")))
    found.load()
    return found


def samples(made):
    if made.truncates:
        return ["a cat", "a dog", "a very long caption " * 50, "", "house"]
    rng = np.random.default_rng(0)
    shapes = [(50, 80, 3), (1, 1, 1), (300, 20, 3), (5, 500, 1), (32, 32, 3)]
    return [rng.integers(0, 255, shape, dtype=np.uint8) for shape in shapes]


def test_both_towers_encode_in_fixed_shapes(made):
    prepared = [made.prepare(sample) for sample in samples(made)]
    if not made.truncates:
        assert {(row.shape, row.dtype) for row in prepared} == {(made.input_shape, made.input_dtype)}
    rows, reasons = made.encode_all(prepared)
    assert rows.shape == (5, made.dim)
    assert not any(reasons)
    np.testing.assert_array_equal(rows, made.encode_all(prepared)[0])
    assert np.abs(rows[0] - rows[4]).max() > 1e-3


def test_random_weights_are_the_same_every_time(made):
    kind = "text" if made.truncates else "image"
    twin = encoder(SMALL, modality(kind), batch_size=4, device="cpu")
    twin.load()
    prepared = [made.prepare(sample) for sample in samples(made)]
    np.testing.assert_array_equal(twin.encode_all(prepared)[0], made.encode_all(prepared)[0])


CAPTIONS = ["a cat", "A DOG &amp; a house", "a very long caption " * 50, "", "Ünïcödé ✓ 漢字"]


def agree(spec, model, transform, name):
    """Texts are those of open_clip, and pictures that need no cut; of others pixels differ a little."""
    import open_clip
    import torch
    from PIL import Image

    def loaded(kind):
        found = encoder(spec, modality(kind), batch_size=8, device="cpu", dtype="float32")
        found.load()
        return found

    model, texts, pictures = model.eval(), loaded("text"), loaded("image")
    side = pictures.input_shape[0]
    seen = [picture(300, 300), picture(40, 40), picture(side, side), picture(), picture(90, 400)]
    with torch.inference_mode():
        captions = model.encode_text(open_clip.get_tokenizer(name)(CAPTIONS)).numpy()
        images = model.encode_image(torch.stack([transform(Image.fromarray(one)) for one in seen])).numpy()
    found = texts.encode([texts.prepare(text) for text in CAPTIONS])
    np.testing.assert_allclose(found, captions, atol=1e-5 * np.abs(captions).max())
    found = pictures.encode([pictures.prepare(image) for image in seen])
    np.testing.assert_allclose(found[:3], images[:3], atol=1e-5 * np.abs(images).max())
    cosines = (found * images).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(images, axis=1)
    assert (cosines > 0.999).all()


def test_both_towers_agree_with_open_clip_itself(monkeypatch):
    """Of an architecture alone, which is as open_clip has it but for its size."""
    import open_clip
    import torch

    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small", folders.CLIP)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, _, transform = open_clip.create_model_and_transforms("small")
    agree("open_clip:small/", model, transform, "small")


def test_both_towers_of_a_folder_agree_with_open_clip_itself(tmp_path):
    import open_clip

    name = f"local-dir:{folders.clip(tmp_path, mean=[0.5] * 3, std=[0.4] * 3, interpolation='bilinear')}"
    agree(f"open_clip:{name}", *open_clip.create_model_from_pretrained(name), name)


@pytest.mark.parametrize(
    ("vision", "told"),
    [
        ({}, {}),
        ({}, {"resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3}),
        ({}, {"resize_mode": "longest", "interpolation": "bilinear"}),
        ({}, {"resize_mode": "shortest", "size": 80}),
        ({"image_size": [48, 96]}, {}),
        ({"image_size": None}, {}),
    ],
    ids=["as CLIP has it", "stretched", "with borders", "of another size", "oblong", "of no size"],
)
def test_preprocessing_is_that_of_open_clip(tmp_path, vision, told):
    import open_clip
    import torch
    from PIL import Image

    folders.clip(tmp_path, vision, **told)
    _, transform = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    found = encoder(f"open_clip:local-dir:{tmp_path}", modality("image"))
    for image in (picture(), picture(300, 100), picture(200, 200)):
        theirs = transform(Image.fromarray(image)).numpy()
        prepared = torch.from_numpy(found.prepare(image).copy()[None])
        ours = found._takes.normalised(prepared, torch.float32)[0].numpy()
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).mean() < 0.05 * theirs.std()
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.995


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


@pytest.fixture
def folder(tmp_path):
    """A folder as open_clip saves it, the weights halved and another preprocessing."""
    import open_clip
    from safetensors.torch import save_file

    model = encoder(SMALL, modality("image"), device="cpu", dtype="float32")
    model.load()
    weights = {key: value * 0.5 for key, value in model._model.state_dict().items()}
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    described = open_clip.get_model_config("ViT-S-32-alt")
    about = {"model_cfg": described, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(about))
    return tmp_path


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_folder_brings_both_towers_and_its_own_preprocessing(folder, kind):
    options = {"device": "cpu", "dtype": "float32", "batch_size": 4}
    found = encoder(f"open_clip:local-dir:{folder}", modality(kind), **options)
    other = encoder(SMALL, modality(kind), **options)
    found.load()
    other.load()
    assert found.dim == other.dim
    row = found.prepare("a cat" if kind == "text" else np.zeros((9, 9, 3), np.uint8))
    assert np.abs(found.encode([row]) - other.encode([row])).max() > 1e-4
    if kind == "image":
        assert found._takes.mean == (0.5, 0.5, 0.5)


def test_a_folder_without_weights_is_not_taken_for_random_ones(folder):
    (folder / "open_clip_model.safetensors").unlink()
    found = encoder(f"open_clip:local-dir:{folder}", modality("image"), device="cpu")
    with pytest.raises(ModalityError, match="cannot be loaded"):
        found.load()
    (folder / "open_clip_config.json").write_text("{}")
    with pytest.raises(ModalityError, match="no model_cfg"):
        encoder(f"open_clip:local-dir:{folder}", modality("image"))


def test_weights_of_another_architecture_are_refused(folder):
    found = encoder(
        f"open_clip:RN50/{folder / 'open_clip_model.safetensors'}", modality("image"), device="cpu"
    )
    with pytest.raises(ModalityError, match="cannot be loaded"):
        found.load()


def test_a_hub_name_that_cannot_be_fetched_is_named(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModalityError, match="nobody/nothing"):
        encoder("open_clip:hf-hub:nobody/nothing", modality("image"))


def test_long_captions_are_cut_and_marked_or_averaged():
    long = "a very long caption " * 50
    cut, averaging = (
        encoder(SMALL, modality("text"), batch_size=2, device="cpu", dtype="float32", long_text=how)
        for how in ("truncate", "windows")
    )
    cut.load()
    averaging.load()
    assert cut.is_truncated(long, cut.prepare(long))
    assert not cut.is_truncated("a cat", cut.prepare("a cat"))
    assert not averaging.is_truncated(long, averaging.prepare(long))
    first, whole = (made.encode([made.prepare(long)])[0] for made in (cut, averaging))
    assert np.abs(first - whole).max() > 1e-5
    np.testing.assert_allclose(
        cut.encode([cut.prepare("a cat")]), averaging.encode([averaging.prepare("a cat")]), atol=1e-5
    )


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
