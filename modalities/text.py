"""What a text sample is: the UTF-8 bytes of one document."""

from __future__ import annotations

import html
from typing import Any, ClassVar

import pyarrow as pa

from modalities.base import Modality, Rejected

EXCERPT = 280
"""Characters of a document that `show` prints."""


class Text(Modality):
    """Documents as UTF-8; `decode` returns a str."""

    name: ClassVar[str] = "text"
    kind: ClassVar[str] = "text"
    default_encoder: ClassVar[str] = "sentence-transformers:all-MiniLM-L6-v2"
    suffixes: ClassVar[tuple[str, ...]] = (".txt", ".text", ".md", ".rst")
    columns: ClassVar[dict[str, pa.DataType]] = {"characters": pa.int64()}
    column_names: ClassVar[tuple[str, ...]] = ("text", "content", "document", "body")
    strings_are_samples: ClassVar[bool] = True

    def decode(self, payload: bytes) -> str:
        """Return the document without a byte-order mark.

        Raises:
            Rejected: it is not UTF-8, or holds nothing but white space.
        """
        try:
            text = payload.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise Rejected("The text is not valid UTF-8.") from None
        # NUL and other control characters are no more readable than blanks.
        if not any(c.isprintable() and not c.isspace() for c in text):
            raise Rejected("The text is empty or blank.")
        return text

    def describe(self, sample: Any, payload: bytes) -> dict[str, Any]:
        """Return the number of characters."""
        return {"characters": len(sample)}

    def show(self, payload: bytes, uri: str) -> str:
        """Return the beginning of the document as an escaped quotation titled by its uri."""
        # A character has at most 4 bytes; do not decode a whole book for its first lines.
        text = " ".join(payload[: EXCERPT * 16].decode("utf-8-sig", errors="replace").split())
        if len(text) > EXCERPT:
            text = text[: EXCERPT - 1].rstrip() + "…"
        return f'<blockquote class="sample" title="{html.escape(uri)}">{html.escape(text)}</blockquote>'

    def suffix(self, payload: bytes) -> str:
        """Return ``.txt``."""
        return ".txt"
