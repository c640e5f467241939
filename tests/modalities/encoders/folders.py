"""Small models with random weights, each a folder as the library that reads it saves one."""

import json
import shutil

import numpy as np

from modalities.encoders.hub import model_folder

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}

CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


def picture(height=180, width=260):
    """One that is smooth: two ways to resize it differ little."""
    from PIL import Image

    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 13, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def bert(folder):
    """A BERT, and the tokenizer of MiniLM."""
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(max_position_embeddings=64, **SIZES)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(model_folder("all-MiniLM-L6-v2", weights=False) / name, folder)
    return folder


def dinov2(folder):
    """A DINOv2."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56)
    Dinov2Model(config).save_pretrained(folder)
    about = {
        "do_center_crop": True,
        "crop_size": {"height": 56, "width": 56},
        "size": {"shortest_edge": 64},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "image_processor_type": "BitImageProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    return folder


def sentences(folder, **pooling):
    """MiniLM with the layers of a small BERT."""
    import torch
    from transformers import BertConfig, BertModel

    shutil.copytree(
        model_folder("all-MiniLM-L6-v2", weights=False),
        folder,
        ignore=lambda *_: ["model.safetensors"],
        dirs_exist_ok=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(BertConfig(max_position_embeddings=512, **SIZES)).save_pretrained(folder)
    about = {
        "word_embedding_dimension": 32,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_cls_token": False,
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(about | pooling))
    return folder


def vit(folder, arch="test_vit", **options):
    """A model of timm, with its classifier."""
    import timm

    model = timm.create_model(arch, **options)
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return folder


def clip(folder, vision=None, **preprocessing):
    """A CLIP, both towers."""
    import open_clip
    from safetensors.torch import save_file

    vision = {key: value for key, value in (CLIP["vision_cfg"] | (vision or {})).items() if value is not None}
    about = {"model_cfg": CLIP | {"vision_cfg": vision}}
    (folder / "open_clip_config.json").write_text(json.dumps(about | {"preprocess_cfg": preprocessing}))
    model = open_clip.create_model(f"local-dir:{folder}")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder
