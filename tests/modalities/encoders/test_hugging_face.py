import json
import shutil

import numpy as np
import pytest

from modalities import ModalityError, Rejected, encoder, modality
from modalities.encoders import hugging_face

from . import folders
from .folders import picture

TEXTS = ["A cat sleeps on the warm roof.", "Interest rates rose.", "words " * 100, "x"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return folders.bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return folders.dinov2(tmp_path_factory.mktemp("dinov2"))


def made(folder, kind, **options):
    options = {"batch_size": 4, "device": "cpu", "dtype": "float32"} | options
    found = encoder(f"hf:local-dir:{folder}", modality(kind), **options)
    found.load()
    return found


def states_of(folder, inputs):
    import torch
    from transformers import AutoModel

    with torch.inference_mode():
        return AutoModel.from_pretrained(str(folder)).eval()(**inputs).last_hidden_state[0].numpy()


@pytest.mark.parametrize("pooling", ["auto", "mean", "cls"])
def test_texts_are_pooled_as_asked(texts, pooling):
    from transformers import AutoTokenizer

    found = made(texts, "text", pooling=pooling)
    rows, reasons = found.encode_all([found.prepare(text) for text in TEXTS])
    assert not any(reasons)
    assert rows.shape == (4, found.dim) == (4, 32)
    inputs = AutoTokenizer.from_pretrained(str(texts))([TEXTS[0]], return_tensors="pt")
    states = states_of(texts, inputs)
    expected = states[0] if pooling == "cls" else states.mean(axis=0)
    np.testing.assert_allclose(rows[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    "kind",
    ["bert", "roberta", "longformer", "data2vec-text", "xmod", "mpnet", "camembert", "lilt", "ibert", "luke"],
)
@pytest.mark.parametrize("padding", [0, 1, 3])
def test_a_long_text_ends_where_the_models_positions_do(texts, tmp_path, kind, padding):
    """The last position is used, and none behind it asked for."""
    import torch
    from transformers import AutoConfig, AutoModel

    if kind == "mpnet" and padding != 1:
        pytest.skip("this one counts from 2 whatever its padding is")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    about = {"max_position_embeddings": 32, "vocab_size": 30_522, "pad_token_id": padding} | {
        "longformer": {"attention_window": [8]},
        "xmod": {"languages": ["en"], "default_language": "en"},
        "luke": {"entity_vocab_size": 10, "entity_emb_size": 32},
        "lilt": {"channel_shrink_ratio": 1, "hidden_size": 48},
    }.get(kind, {})
    model = AutoModel.from_config(AutoConfig.for_model(kind, **(sizes | about)))
    model.save_pretrained(tmp_path)
    shutil.copy(texts / "tokenizer.json", tmp_path)
    fast = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fast))
    found = made(tmp_path, "text")
    table = model.embeddings.position_embeddings
    assert found._takes._lengths[-1] == len(table.weight) - (0 if kind == "bert" else table.padding_idx + 1)
    with torch.inference_mode():
        rows, reasons = found.encode_all([found.prepare(text) for text in ("words " * 100, "x")])
    assert not any(reasons)
    assert np.isfinite(rows).all()


def test_a_text_may_be_read_in_windows(texts):
    found = made(texts, "text", long_text="windows")
    rows = found.encode_all([found.prepare(text) for text in TEXTS])[0]
    cut = made(texts, "text")
    first = cut.encode_all([cut.prepare(text) for text in TEXTS])[0]
    np.testing.assert_allclose(rows[[0, 1, 3]], first[[0, 1, 3]], atol=1e-5)
    assert np.abs(rows[2] - first[2]).max() > 1e-4


@pytest.mark.parametrize("pooling", ["auto", "mean", "cls"])
def test_pictures_are_pooled_as_asked(pictures, pooling):
    import torch

    found = made(pictures, "image", pooling=pooling)
    assert found.input_shape == (56, 56, 3)
    prepared = found.prepare(picture())
    pixels = found._takes.normalised(torch.from_numpy(prepared[None].copy()), torch.float32)
    states = states_of(pictures, {"pixel_values": pixels})
    expected = states.mean(axis=0) if pooling == "mean" else states[0]
    np.testing.assert_allclose(found.encode([prepared])[0], expected, atol=1e-5)
    with pytest.raises(Rejected, match=r"satellite\.bands"):
        found.prepare(np.zeros((4, 4, 13), np.uint8))


PROCESSORS = {
    "as a DINOv2 has it": (
        "Bit",
        {"crop_size": {"height": 56, "width": 56}, "size": {"shortest_edge": 64}, "do_center_crop": True},
    ),
    "stretched": ("ViT", {}),
    "one mean for all bands": ("ViT", {"image_mean": 0.4, "image_std": 0.2}),
    "not scaled": ("ViT", {"do_rescale": False, "image_mean": [120, 110, 100], "image_std": [50, 60, 70]}),
    "not scaled nor normalised": ("ViT", {"do_rescale": False, "do_normalize": False}),
    "scaled to 0..2": ("ViT", {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}),
    "ConvNeXT, small": ("ConvNext", {"size": {"shortest_edge": 224}}),
    "ConvNeXT, large": ("ConvNext", {"size": {"shortest_edge": 384}}),
    "PoolFormer": ("PoolFormer", {}),
    "LeViT": ("Levit", {}),
    "blue first": (
        "MobileViT",
        {"crop_size": {"height": 256, "width": 256}, "size": {"shortest_edge": 288}},
    ),
    "normalised twice": ("EfficientNet", {}),
}


@pytest.mark.parametrize("how", PROCESSORS)
def test_preprocessing_is_that_of_transformers(how, tmp_path):
    import torch
    import transformers

    name, options = PROCESSORS[how]
    name = f"{name}ImageProcessor"
    processor = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    processor(**options).save_pretrained(tmp_path)
    theirs = processor.from_pretrained(str(tmp_path))(picture(), return_tensors="np")["pixel_values"]
    takes = hugging_face._pixels(tmp_path, "hf:this")
    prepared = takes.prepare(picture(), "hf:this").copy()
    ours = takes.normalised(torch.from_numpy(prepared[None]), torch.float32).numpy()
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).mean() < 0.05 * theirs.std()
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.995


def test_a_model_of_the_other_kind_is_refused(texts, pictures):
    with pytest.raises(ModalityError, match="no model for images"):
        made(texts, "image")
    with pytest.raises(ModalityError, match="no model for texts"):
        made(pictures, "text")


def test_weights_of_another_architecture_are_refused(texts, pictures, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(texts, mixed)
    shutil.copy(pictures / "model.safetensors", mixed)
    with pytest.raises(ModalityError, match="another architecture"):
        made(mixed, "text")


def test_what_is_missing_is_named(texts, tmp_path, monkeypatch):
    bare = tmp_path / "bare"
    shutil.copytree(texts, bare)
    (bare / "model.safetensors").unlink()
    with pytest.raises(ModalityError, match="cannot be loaded"):
        made(bare, "text")
    (bare / "tokenizer.json").write_text("{")
    with pytest.raises(ModalityError, match="tokenizer"):
        encoder(f"hf:{bare}", modality("text")).open()
    with pytest.raises(ModalityError, match="no folder"):
        made(tmp_path / "none", "text")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModalityError, match="neither in the cache nor"):
        encoder("hf:nobody/nothing", modality("text"))
    with pytest.raises(ModalityError, match="lacks its model"):
        encoder("hf", modality("text"))


def test_a_pickled_checkpoint_is_read_as_weights_alone(texts, tmp_path):
    import torch
    from safetensors.torch import load_file

    pickled = tmp_path / "pickled"
    shutil.copytree(texts, pickled)
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    row = made(texts, "text").prepare(TEXTS[0])
    np.testing.assert_array_equal(made(pickled, "text").encode([row]), made(texts, "text").encode([row]))


def test_options_that_an_encoder_does_not_know_are_refused():
    with pytest.raises(ModalityError, match=r"encoder\.pooling"):
        encoder("patches", modality("image"), pooling="cls")
    with pytest.raises(ModalityError, match=r"encoder\.long_text"):
        encoder("timm:test_vit/", modality("image"), long_text="windows")
