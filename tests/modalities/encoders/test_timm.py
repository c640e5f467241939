import json
import pickle

import numpy as np
import pytest

from modalities import ModalityError, Rejected, encoder, modality

SMALL = "test_vit"  # a few thousand weights, 160 pixels a side


def made(spec, **options):
    options = {"batch_size": 4, "device": "cpu", "dtype": "float32"} | options
    return encoder(f"timm:{spec}", modality("image"), **options)


def images(n=5):
    rng = np.random.default_rng(0)
    shapes = [(50, 80, 3), (1, 1, 1), (300, 20, 3), (5, 500, 1), (32, 32, 3)]
    return [rng.integers(0, 255, shape, dtype=np.uint8) for shape in shapes[:n]]


@pytest.fixture(scope="module")
def loaded():
    found = pickle.loads(pickle.dumps(made(f"{SMALL}/")))
    found.load()
    return found


@pytest.fixture
def folder(loaded, tmp_path):
    """A folder as timm saves it, the weights of `loaded` doubled."""
    import timm
    from safetensors.torch import save_file

    model = timm.create_model(SMALL, num_classes=7)
    weights = {name: value * 2 for name, value in model.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors")
    about = {
        "architecture": SMALL,
        "num_classes": 7,
        "pretrained_cfg": {
            "num_classes": 7,
            "input_size": [3, 160, 160],
            "mean": [0.1] * 3,
            "std": [0.9] * 3,
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(about))
    return tmp_path


def test_images_of_any_shape_become_embeddings_in_one_shape(loaded):
    prepared = [loaded.prepare(image) for image in images()]
    assert {(row.shape, row.dtype) for row in prepared} == {((160, 160, 3), np.dtype(np.uint8))}
    rows, reasons = loaded.encode_all(prepared)
    assert rows.shape == (5, loaded.dim)
    assert not any(reasons)
    assert np.abs(rows[0] - rows[4]).max() > 1e-3
    np.testing.assert_array_equal(rows[4:], loaded.encode(prepared[4:]))


def test_it_agrees_with_timm_itself(loaded):
    import timm
    import torch
    from PIL import Image

    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(loaded._model))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(SMALL)
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 13, 3), dtype=np.uint8))
    image = np.asarray(coarse.resize((520, 360), Image.Resampling.BICUBIC))
    with torch.inference_mode():
        pixels = transform(Image.fromarray(image))[None]
        model = model.eval()
        theirs = model.forward_head(model.forward_features(pixels), pre_logits=True)[0].numpy()
    ours = loaded.encode([loaded.prepare(image)])[0]
    assert ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs) > 0.999


@pytest.mark.parametrize(
    ("arch", "dim", "side"),
    [("vit_small_patch14_dinov2.lvd142m", 384, 518), ("vit_small_patch16_dinov3.lvd1689m", 384, 256),
     ("mobilenetv3_large_100.ra_in1k", 1280, 224)],
)  # fmt: skip
def test_dimension_and_input_are_known_without_weights(arch, dim, side):
    found = made(arch)
    assert (found.dim, found.input_shape) == (dim, (side, side, 3))


def test_a_folder_brings_its_own_preprocessing_and_weights(folder, loaded):
    found = made(f"local-dir:{folder}")
    found.load()
    batch = [loaded.prepare(image) for image in images()[:4]]
    assert found.dim == loaded.dim
    assert found._takes.mean == (0.1, 0.1, 0.1)
    assert np.isfinite(found.encode(batch)).all()
    from_file = made(f"{SMALL}/{folder / 'model.safetensors'}")
    with pytest.raises(ModalityError, match="head"):  # seven classes there, none of the default's
        from_file.load()


def test_weights_of_another_architecture_are_refused(folder):
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | {"architecture": "test_resnet"}))
    with pytest.raises(ModalityError, match="cannot be loaded"):
        made(f"local-dir:{folder}").load()


def test_a_folder_without_weights_or_description_is_named(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(ModalityError, match=r"config\.json"):
        made(f"local-dir:{empty}")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModalityError, match="No suitable checkpoints"):
        made(f"local-dir:{folder}").load()


def test_other_names_are_explained():
    for spec, reason in [
        ("vit_small_patch14_dinov7", "Did you mean vit_"),
        ("resnet18.nothing", "a1_in1k"),
        ("", r"ARCH\.TAG"),
    ]:
        with pytest.raises(ModalityError, match=reason):
            made(spec)


def test_other_bands_are_rejected_with_the_way_out(loaded):
    with pytest.raises(Rejected, match=r"5 bands.*satellite\.bands"):
        loaded.prepare(np.zeros((4, 4, 5), np.uint8))
