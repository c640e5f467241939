"""What in a uri is a secret? Its user and password, its signature, its token; `redacted` takes them out.

Redacting twice is redacting once. What is left names the same file for everybody, so it may stand in ids,
results and messages, and it is what two runs are compared by: a uri that was signed anew is the same pool.
"""

from __future__ import annotations

import re

MASK = "***"

# In these an "@" divides a container, or a repository, from where it lies.
_NO_PASSWORD = r"(?!(?:abfss?|wasbs?|az|adl|github|gitlab)://)"
_USER = re.compile(rf"(?<![\w+.-]){_NO_PASSWORD}([a-z][a-z0-9+.-]*://)[^/\s\"'<>\\]*@", re.IGNORECASE)
_PARAMETER = re.compile(
    r"([?&;](?:x-(?:amz|goog)-[\w-]+"  # as a whole: the date of a signature changes with it
    r"|[\w.-]*(?:signature|secret|token|passw(?:or)?d|credential|api_?-?key|access_?-?key|authorization)[\w.-]*"
    r"|sig|auth|key|pwd|code)=)[^&;\s\"'<>#\\]*",
    re.IGNORECASE,
)
_SHAPE = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"  # key ids of AWS
    r"|\bhf_[A-Za-z0-9]{30,}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{30,}\b"
    r"|(?<=\bBearer )[\w.~+/=-]{8,}"
    r"|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+"  # a JSON web token
)

_MARKS = ("AKIA", "ASIA", "hf_", *(f"gh{kind}_" for kind in "pousr"), "Bearer ", "eyJ")
"""One of them is in all that has such a shape: most names of files have none, and are not searched for it."""


def redacted(text: str) -> str:
    """Return a text with `MASK` in place of the secrets of its uris, and of keys known by their shape."""
    if "@" in text:
        text = _USER.sub(rf"\1{MASK}@", text)
    if "=" in text:
        text = _PARAMETER.sub(rf"\1{MASK}", text)
    return _SHAPE.sub(MASK, text) if any(mark in text for mark in _MARKS) else text
