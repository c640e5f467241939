"""What leaves this process for a screen, a log or a file carries no secret: `hidden` takes them out.

Secrets are the credentials in uris (`modalities.sources.secrets`) and the values of environment variables
whose names say so. A config that is written down, or compared with one, is hidden first: nothing that is
taken out is needed to resume.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from types import TracebackType
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel

from modalities.sources.secrets import MASK as MASK
from modalities.sources.secrets import redacted

SHORTEST = 8
"""Characters of a value that is taken for a secret; a shorter one is part of too many other words."""

_TELLING = {"SECRET", "SECRETS", "TOKEN", "PASSWORD", "PASSWD", "PASSPHRASE", "KEY", "APIKEY", "CREDENTIAL"}
_PLACES = {"FILE", "PATH", "DIR", "URL", "URI", "ARN", "MODE", "PROVIDER", "ENDPOINT"}
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that move the cursor, recolour a terminal or turn the direction of writing."""


def hidden(value: Any) -> Any:
    """A text, a config or JSON values, with `MASK` for every secret."""
    if isinstance(value, str):
        return _hidden_text(value)
    if isinstance(value, dict):
        return {hidden(key): hidden(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(hidden(inner) for inner in value)
    if isinstance(value, BaseModel):
        names = type(value).model_fields
        return value.model_copy(update={name: hidden(getattr(value, name)) for name in names})
    return value


def told(text: str) -> str:
    """A text as a person may see it on a terminal: without secrets, and with control characters spelt out."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), _hidden_text(text))


def _hidden_text(text: str) -> str:
    for secret in _in_environment():
        if secret in text:
            text = text.replace(secret, MASK)
    return redacted(text)


def _in_environment() -> list[str]:
    """Values of the variables that hold secrets, as they are and as uris quote them; the longest first."""
    found: set[str] = set()
    for name, value in os.environ.items():
        words = name.upper().split("_")
        if len(value) >= SHORTEST and _TELLING & set(words) and words[-1] not in _PLACES:
            found |= {value, quote(value, safe="")}
    return sorted(found, key=lambda value: (-len(value), value))


def hide_in_tracebacks() -> None:
    """Let Python print an error that nobody caught without the secrets in it."""

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.stderr.write(_hidden_text("".join(traceback.format_exception(kind, error, trace))))

    sys.excepthook = show
