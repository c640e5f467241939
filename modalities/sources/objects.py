"""A JSON object as a sample: a line of JSON Lines, or the json member of a WebDataset sample."""

from __future__ import annotations

import json
from typing import Any

from modalities.sources.paths import printable


def json_object(line: bytes, what: str = "line") -> tuple[dict[str, Any] | None, str]:
    """Return the object in `line`, or None and the reason; `what` names it there."""
    if not line.strip():
        return None, f"The {what} is blank."
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return None, f"The {what} is not valid UTF-8."
    except (ValueError, RecursionError):
        return None, f"The {what} is not valid JSON."
    return (value, "") if isinstance(value, dict) else (None, f"The {what} is not a JSON object.")


def id_in(value: dict[str, Any], key: str) -> tuple[str | None, str]:
    """Return the id under a key of an object, or None and the reason."""
    identity = value.get(key)
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        return None, f"The key {key!r} holds no string or integer."
    if printable(str(identity)) != str(identity):
        return None, f"The key {key!r} holds no valid Unicode."
    return str(identity), ""
