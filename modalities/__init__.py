"""A raw sample becomes an embedding: sources, modalities and encoders."""

from modalities.base import (
    Encoder,
    FittedEncoder,
    KMeansFn,
    Modality,
    ModalityError,
    Part,
    Record,
    Rejected,
    Source,
)
from modalities.registry import encoder, modality, source

__all__ = [
    "Encoder",
    "FittedEncoder",
    "KMeansFn",
    "Modality",
    "ModalityError",
    "Part",
    "Record",
    "Rejected",
    "Source",
    "encoder",
    "modality",
    "source",
]
