"""How do the numbers become one HTML file that needs no network and runs no script but its own?

Comes in: plain data. Goes out: the text of `report.html`. The page forbids itself every request and
every script but the two that it carries (a content security policy with their SHA-256), so that text
of the pool stays text even where a modality's `show` is wrong.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from pipelines.quantities import duration


def render(**data: Any) -> str:
    """The page for the data that `page.html.j2` names; everything but `Markup` is escaped."""
    environment = Environment(
        loader=PackageLoader("pipelines.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": "{:,}".format,
        "amount": "{:,.9g}".format,
        "duration": duration,
        "toyaml": lambda value: yaml.safe_dump(value, sort_keys=False, allow_unicode=True),
    }
    here = files("pipelines.report")
    # HTML parsers read CRLF as LF, and the hashes are taken of what they read
    scripts = [get_plotlyjs().replace("\r\n", "\n"), here.joinpath("page.js").read_text(encoding="utf-8")]
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    return environment.get_template("page.html.j2").render(
        policy="default-src 'none'; img-src data:; media-src data:;"
        f" style-src 'unsafe-inline'; script-src {hashes}",
        css=Markup(here.joinpath("page.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        **data,
    )


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
