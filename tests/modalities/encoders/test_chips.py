"""Chips cut out of scenes go through models: three bands through those of pictures, more through others."""

import io

import numpy as np
import pytest
from PIL import Image

from modalities import Rejected, encoder, modality, plugins, source
from modalities.satellite_settings import SatelliteSettings
from tests.modalities.scenes import values, write_scene

NAMES = ["B02", "B03", "B04", "B08", "B11"]
RGB = [2, 1, 0]
"""Places of red, green and blue among them."""

MEANS = [0.1, 0.2, 0.3, 0.4, 0.5]
"""Of the pixels of each band, as a model of all five may have been trained on them."""

EXACT = {"batch_size": 2, "device": "cpu", "dtype": "float32"}


def decoded(folder, pixels, **options):
    """The chips of a scene of five bands, as encoders get them."""
    write_scene(folder / "scene.tif", pixels, names=NAMES)
    made = modality("satellite", SatelliteSettings(**{"chip": 32, **options}))
    pool = source("geotiff", str(folder), modality=made)
    return [made.decode(record.payload) for part in pool.parts() for record in pool.read(part)]


def encoded(model, samples):
    rows, reasons = model.encode_all([model.prepare(sample) for sample in samples])
    assert reasons == [None] * len(samples)
    assert rows.shape == (len(samples), model.dim)
    return rows


@pytest.fixture(scope="module", params=["timm:test_vit/", "open_clip:ViT-S-32-alt/"])
def of_pictures(request):
    """A model of red, green and blue, its weights random."""
    found = encoder(request.param, modality("satellite"), **EXACT)
    found.load()
    return found


def test_three_bands_of_a_chip_are_to_a_model_the_picture_of_them(of_pictures, tmp_path):
    pixels = values(5, 32, 64, "uint8")
    pictures = []
    for half in (pixels[:, :, :32], pixels[:, :, 32:]):
        buffer = io.BytesIO()
        Image.fromarray(half[RGB].transpose(1, 2, 0)).save(buffer, "PNG")
        pictures.append(modality("image").decode(buffer.getvalue()))
    wanted = encoded(of_pictures, pictures)
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-3
    for bands in ([3, 2, 1], ["B04", "B03", "B02"]):
        np.testing.assert_array_equal(encoded(of_pictures, decoded(tmp_path, pixels, bands=bands)), wanted)


def test_what_a_model_of_pictures_says_depends_on_those_bands_and_on_no_other(of_pictures, tmp_path):
    pixels = values(5, 32, 32, "uint8")
    whole = encoded(of_pictures, decoded(tmp_path, pixels, bands=["B04", "B03", "B02"]))
    for band in range(5):
        other = pixels.copy()
        other[band] = 255 - other[band]
        row = encoded(of_pictures, decoded(tmp_path, other, bands=["B04", "B03", "B02"]))
        assert np.array_equal(row, whole) == (band not in RGB)


def test_a_chip_of_more_bands_is_rejected_by_a_model_of_pictures_with_the_way_out(of_pictures, tmp_path):
    for count in (5, 4, 2):
        (chip,) = decoded(tmp_path, values(5, 32, 32, "uint8"), bands=[*range(1, count + 1)])
        with pytest.raises(
            Rejected, match=rf"has {count} bands, but .* takes 1 or 3: choose 3 with satellite\.bands"
        ):
            of_pictures.prepare(chip)


@pytest.fixture
def multispectral(tmp_path):
    """A model of five bands from a folder, as timm saves it, and the folder."""
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("test_vit", in_chans=5, num_classes=7)
    about = {"pretrained_cfg": {"mean": MEANS, "std": MEANS[::-1], "crop_pct": 1.0}}
    timm.models.save_for_hf(model, tmp_path / "model", model_config=about, safe_serialization=True)
    found = encoder(f"timm:local-dir:{tmp_path / 'model'}", modality("satellite"), **EXACT)
    found.load()
    return found, tmp_path / "model"


def test_a_local_checkpoint_of_five_bands_sees_all_of_a_chip(multispectral, tmp_path):
    import timm
    import torch

    found, folder = multispectral
    side = found.input_shape[0]  # and all of it is kept: nothing is resized
    pixels = values(5, side, side, "uint8")
    whole = encoded(found, decoded(tmp_path / "pool", pixels, chip=side))
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    mean, std = (torch.tensor(of_bands)[:, None, None] for of_bands in (MEANS, MEANS[::-1]))
    with torch.inference_mode():
        wanted = theirs((torch.from_numpy(pixels)[None] / 255 - mean) / std).numpy()
    np.testing.assert_allclose(whole, wanted, atol=1e-5)
    for band in range(5):
        other = pixels.copy()
        other[band] = 255 - other[band]
        row = encoded(found, decoded(tmp_path / "pool", other, chip=side))
        assert np.abs(row - whole).max() > 1e-3


def test_a_chip_of_three_bands_is_rejected_by_a_model_of_five_with_the_way_out(multispectral, tmp_path):
    found, _ = multispectral
    (chip,) = decoded(tmp_path / "pool", values(5, 32, 32, "uint8"), bands=[3, 2, 1])
    with pytest.raises(Rejected, match=r"has 3 bands, but timm:.* takes 5: choose 5 with satellite\.bands"):
        found.prepare(chip)


def test_an_encoder_of_somebody_elses_gets_all_bands_of_a_chip(monkeypatch, tmp_path):
    monkeypatch.setattr(plugins, "_named", set())  # it is this test alone that names one
    found = encoder("tests.modalities.encoders.spectrum:Spectrum", modality("satellite"))
    found.load()
    pixels = values(5, 32, 64, "uint16")
    rows = encoded(found, decoded(tmp_path, pixels, scale="none"))
    for row, chip in zip(rows, (pixels[:, :, :32], pixels[:, :, 32:]), strict=True):
        np.testing.assert_allclose(row[:5], chip.mean(axis=(1, 2)), rtol=1e-5)
        np.testing.assert_allclose(row[5:], chip.std(axis=(1, 2)), rtol=1e-5)
