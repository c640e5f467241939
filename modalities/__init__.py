"""A raw sample becomes an embedding: sources, modalities and encoders."""

from modalities.base import FittedModality, Modality, ModalityError, Part, Record, Rejected, Settings, Source
from modalities.encoders.base import Encoder, FittedEncoder, KMeansFn
from modalities.registry import MODALITIES, declared, encoder, modality, source
from modalities.rules import Apart, AtMost, Rule

__all__ = [
    "MODALITIES",
    "Apart",
    "AtMost",
    "Encoder",
    "FittedEncoder",
    "FittedModality",
    "KMeansFn",
    "Modality",
    "ModalityError",
    "Part",
    "Record",
    "Rejected",
    "Rule",
    "Settings",
    "Source",
    "declared",
    "encoder",
    "modality",
    "source",
]
