import json
import pickle

import numpy as np
import pytest

from modalities import ModalityError, Rejected, encoder, modality

from . import folders
from .folders import picture

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


def agree(found, model):
    """Rows are as long as told, and those of timm: of the same pixels the same, nearly of its own."""
    import timm
    import torch
    from PIL import Image

    def theirs(pixels):
        with torch.inference_mode():
            return model.forward_head(model.forward_features(pixels), pre_logits=True).numpy()

    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    seen = [picture(360, 520), picture(300, 300)]
    prepared = [found.prepare(image) for image in seen]
    rows = found.encode(prepared)
    assert rows.shape == (2, found.dim)
    given = found._takes.normalised(torch.from_numpy(np.stack(prepared)), torch.float32)
    np.testing.assert_allclose(rows, theirs(given), rtol=1e-4, atol=1e-4 * np.abs(rows).max())
    resized = theirs(torch.stack([transform(Image.fromarray(image)) for image in seen]))
    cosines = (rows * resized).sum(axis=1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(resized, axis=1)
    assert (cosines > 0.995).all()  # of an oblong picture it is resized in two steps, of which ours are one


@pytest.mark.parametrize(
    "arch",
    [SMALL, "test_convnext", "test_efficientnet", "test_mambaout", "mobilenetv3_small_050",
     *(pytest.param(f"test_{arch}", marks=pytest.mark.slow) for arch in ("byobnet", "nfnet", "resnet"))],
)  # fmt: skip
def test_it_agrees_with_timm_itself(arch):
    """Whatever a head has before its classifier: nothing, a pooling, a norm, a layer of its own."""
    import timm
    import torch

    found = made(f"{arch}/")
    found.load()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(arch)
    agree(found, model.eval())


@pytest.mark.parametrize("arch", ["vit_small_patch14_dinov2", "vit_small_patch16_dinov3"])
def test_a_small_dino_agrees_with_timm_itself(arch, tmp_path):
    """As large as its weights allow it to be noticed: each block counts as much as what it is added to."""
    import timm

    sizes = {"embed_dim": 48, "depth": 2, "num_heads": 2, "init_values": 1.0, "img_size": 112}
    folders.vit(tmp_path, arch, **sizes)
    found = made(f"local-dir:{tmp_path}")
    found.load()
    assert found.dim == 48
    agree(found, timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=0).eval())


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


@pytest.mark.parametrize("classes", [0, 7, 1000])
def test_a_file_may_lack_the_classifier_or_have_another(loaded, tmp_path, classes):
    import timm
    from safetensors.torch import save_file

    weights = loaded._model.state_dict()
    if classes:
        weights |= timm.create_model(SMALL, num_classes=classes).get_classifier().state_dict(prefix="head.")
    save_file(weights, tmp_path / "model.safetensors")
    found = made(f"{SMALL}/{tmp_path / 'model.safetensors'}")
    found.load()
    batch = [loaded.prepare(image) for image in images()[:4]]
    np.testing.assert_array_equal(found.encode(batch), loaded.encode(batch))


@pytest.mark.parametrize("name", ["pytorch_model.bin", pytest.param("weights.pth", marks=pytest.mark.slow)])
def test_a_pickled_checkpoint_is_read_as_weights_alone(tmp_path, name):
    import torch
    from safetensors.torch import load_file

    folders.vit(tmp_path)
    prepared = [made(f"local-dir:{tmp_path}").prepare(image) for image in images()[:4]]

    def rows(spec):
        found = made(spec)
        found.load()
        return found.encode(prepared)

    expected = rows(f"local-dir:{tmp_path}")
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / name)
    (tmp_path / "model.safetensors").unlink()
    np.testing.assert_array_equal(rows(f"local-dir:{tmp_path}"), expected)
    np.testing.assert_array_equal(rows(f"{SMALL}/{tmp_path / name}"), expected)


@pytest.mark.parametrize("change", ["lacks", "has more"])
def test_a_file_with_other_weights_is_refused_by_name(loaded, tmp_path, change):
    from safetensors.torch import save_file

    weights = dict(loaded._model.state_dict())
    told = weights.pop("norm.weight")
    if change == "has more":
        weights |= {"norm.weight": told, "norm.other": told.clone()}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModalityError, match=r"norm\.weight" if change == "lacks" else r"norm\.other"):
        made(f"{SMALL}/{tmp_path / 'model.safetensors'}").load()


def test_a_file_that_is_not_there_is_named_where_it_is_asked_for_and_where_it_is_read(loaded, tmp_path):
    from safetensors.torch import save_file

    file = tmp_path / "model.safetensors"
    with pytest.raises(ModalityError, match=r"no file '.*model\.safetensors' here.*timm:ARCH"):
        made(f"{SMALL}/{file}")
    save_file(loaded._model.state_dict(), file)
    found = made(f"{SMALL}/{file}")
    file.unlink()  # as on a machine that has no copy of it
    with pytest.raises(ModalityError, match="no file"):
        found.load()


@pytest.fixture(params=[5, 13])
def multispectral(request, tmp_path):
    """A folder as timm saves it, of a model of more bands than a picture has."""
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(SMALL, in_chans=request.param, num_classes=7)
    bands = np.linspace(0.1, 0.6, request.param).tolist()
    about = {"pretrained_cfg": {"mean": bands, "std": bands[::-1]}}
    timm.models.save_for_hf(model, tmp_path, model_config=about, safe_serialization=True)
    return tmp_path


def test_a_local_checkpoint_of_other_bands_encodes_chips_of_so_many(multispectral):
    import timm
    import torch

    found = made(f"local-dir:{multispectral}")
    found.load()
    bands = found._takes.bands
    assert found.input_shape == (160, 160, bands)
    model = timm.create_model(f"local-dir:{multispectral}", pretrained=True, num_classes=0).eval()
    about = timm.data.resolve_model_data_config(model)
    assert about["input_size"] == (bands, 160, 160)
    chips = np.random.default_rng(0).integers(0, 255, (3, 160, 160, bands)).astype(np.float32)
    prepared = [found.prepare(chip) for chip in chips]
    pixels = torch.from_numpy(np.stack([*prepared, np.zeros_like(prepared[0])])).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(about[name])[:, None, None] for name in ("mean", "std"))
    with torch.inference_mode():
        theirs = model((pixels - mean) / std)[:3].numpy()
    np.testing.assert_allclose(found.encode(prepared), theirs, atol=1e-5)


@pytest.mark.parametrize("side", [(70, 40), (200, 160), (1, 9)])
def test_each_band_is_cut_as_a_picture_of_it_would_be(multispectral, loaded, side):
    found = made(f"local-dir:{multispectral}")
    chip = np.random.default_rng(0).integers(0, 255, (*side, found._takes.bands), dtype=np.uint8)
    np.testing.assert_array_equal(found.prepare(chip)[:, :, :3], loaded.prepare(chip[:, :, :3]))


def test_chips_of_other_bands_than_the_model_has_are_rejected(multispectral):
    found = made(f"local-dir:{multispectral}")
    bands = found._takes.bands
    for there in (1, 3, 4):
        with pytest.raises(
            Rejected, match=rf"has {there} bands, but .* takes {bands}: choose {bands} .*satellite\.bands"
        ):
            found.prepare(np.zeros((4, 4, there), np.uint8))


def test_where_no_mean_is_told_every_band_has_the_average_of_those_of_pictures(multispectral):
    about = json.loads((multispectral / "config.json").read_text())
    del about["pretrained_cfg"]["mean"], about["pretrained_cfg"]["std"]
    (multispectral / "config.json").write_text(json.dumps(about))
    found = made(f"local-dir:{multispectral}")._takes
    np.testing.assert_allclose(found.mean, [0.449] * found.bands)
    np.testing.assert_allclose(found.std, [0.226] * found.bands)


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
