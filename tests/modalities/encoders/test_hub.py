"""A name on the hub is the folder that it was fetched into, whichever library reads it."""

import hashlib

import numpy as np
import pytest

from modalities import encoder, modality
from modalities.encoders.hub import model_folder

from . import folders

COMMIT = "0123456789abcdef" * 2 + "01234567"

SAMPLES = {
    "image": [folders.picture(), folders.picture(64, 64)],
    "text": ["A cat sleeps on the warm roof.", "x"],
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Lays a folder into a cache as the hub's client does: files by their hash, links by their name."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def lay(folder, name):
        there = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        snapshot, blobs = there / "snapshots" / COMMIT, there / "blobs"
        blobs.mkdir(parents=True)
        (there / "refs").mkdir()
        (there / "refs" / "main").write_text(COMMIT)
        for file in (path for path in folder.rglob("*") if path.is_file()):
            content = file.read_bytes()
            blob, link = blobs / hashlib.sha256(content).hexdigest(), snapshot / file.relative_to(folder)
            blob.write_bytes(content)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
        return snapshot

    return lay


def rows(spec, kind):
    found = encoder(spec, modality(kind), batch_size=4, device="cpu", dtype="float32")
    found.load()
    return found.encode([found.prepare(sample) for sample in SAMPLES[kind]])


@pytest.mark.parametrize(
    ("made", "family", "name", "hub", "kind"),
    [
        (folders.clip, "open_clip", "hf-hub:me/small", "me/small", "image"),
        (folders.clip, "open_clip", "hf-hub:me/small", "me/small", "text"),
        (folders.vit, "timm", "hf-hub:me/small", "me/small", "image"),
        (folders.vit, "timm", "test_vit.r160_in1k", "timm/test_vit.r160_in1k", "image"),
        (folders.bert, "hf", "me/small", "me/small", "text"),
        (folders.dinov2, "hf", "me/small", "me/small", "image"),
        (folders.sentences, "sentence-transformers", "me/small", "me/small", "text"),
        (folders.sentences, "sentence-transformers", "small", "sentence-transformers/small", "text"),
    ],
)
def test_a_name_on_the_hub_gives_the_rows_of_its_folder(cache, tmp_path, made, family, name, hub, kind):
    folder = tmp_path / "folder"
    folder.mkdir()
    cache(made(folder), hub)
    expected = rows(f"{family}:local-dir:{folder}", kind)
    np.testing.assert_array_equal(rows(f"{family}:{name}", kind), expected)
    assert np.abs(expected[0] - expected[1]).max() > 1e-5


def test_a_model_on_the_hub_without_safetensors_is_read_as_weights_alone(cache, tmp_path):
    import torch
    from safetensors.torch import load_file

    folder = folders.bert(tmp_path / "folder")
    expected = rows(f"hf:local-dir:{folder}", "text")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    cache(folder, "me/small")
    np.testing.assert_array_equal(rows("hf:me/small", "text"), expected)


def test_a_folder_stands_before_a_name_on_the_hub(cache, tmp_path, monkeypatch):
    folder = tmp_path / "me" / "small"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    snapshot = cache(folder, "me/small")
    assert model_folder("me/small", weights=True) == snapshot
    monkeypatch.chdir(tmp_path)
    assert model_folder("me/small", weights=True).resolve() == folder
