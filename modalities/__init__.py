"""A raw sample becomes an embedding: sources, modalities and encoders."""

from modalities.base import (
    Encoder,
    FittedEncoder,
    FittedModality,
    KMeansFn,
    Modality,
    ModalityError,
    Part,
    Record,
    Rejected,
    Settings,
    Source,
)
from modalities.registry import MODALITIES, declared, encoder, modality, source

__all__ = [
    "MODALITIES",
    "Encoder",
    "FittedEncoder",
    "FittedModality",
    "KMeansFn",
    "Modality",
    "ModalityError",
    "Part",
    "Record",
    "Rejected",
    "Settings",
    "Source",
    "declared",
    "encoder",
    "modality",
    "source",
]
