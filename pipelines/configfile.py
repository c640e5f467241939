"""One YAML file becomes one typed config; what is wrong with it is said before anything starts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import fsspec
import yaml
from pydantic import ValidationError

from pipelines.config import Config, config_of, entries
from pipelines.errors import RequestError
from pipelines.secrets import MASK


def load_config(path: str, overrides: list[str] | None = None) -> Config:
    """Read a YAML config and apply ``a.b=value`` overrides to it.

    Raises:
        RequestError: The file is not there or is not YAML, or a key or value is not possible. The
            message names the line (or the override), the value and what would do.
    """
    try:
        with fsspec.open(path, "rt", encoding="utf-8") as file:
            text = file.read()
    except (OSError, ValueError, ImportError) as error:
        raise RequestError(f"cannot read the config {path}: {error}") from error
    places: dict[str, str] = {}
    tree = _parse(text, path, places)
    for override in overrides or []:
        _override(tree, override, places)
    tree = {key: value for key, value in tree.items() if value is not None}
    tree.setdefault("output", f"runs/{PurePosixPath(path).stem}")
    try:
        kind = config_of(str(tree.get("modality", "image")))
        config = kind.model_validate(tree)
    except ValidationError as error:
        raise RequestError(_sentences(error, places, path, kind)) from None
    if not config.source.path:
        raise RequestError(f"{path}: source.path is missing: it says where the pool is")
    _no_secret_missing(config, path)
    return config


def _no_secret_missing(config: Config, path: str) -> None:
    """Refuse a config that a run saved, where it left a secret out."""
    for key, value, _ in entries(config):
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and (f"://{MASK}@" in text or f"={MASK}" in text):
                raise RequestError(
                    f"{path}: {key} {text!r} was saved without its secrets: write the uri with them, as"
                    " it was when the run began"
                )


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also takes ``1e6`` for a number, as YAML 1.2 does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _parse(text: str, path: str, places: dict[str, str]) -> dict[str, Any]:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise RequestError(f"{path}, line 1: a config is keys and values, such as `modality: image`")
        _note_places(node, "", path, places)
        tree: dict[str, Any] = loader.construct_document(node)
        return tree
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else path
        problem = getattr(error, "problem", None) or error
        raise RequestError(f"{where}: this is not YAML: {problem}") from error


def _note_places(
    node: yaml.MappingNode, prefix: str, path: str, places: dict[str, str], above: tuple[yaml.Node, ...] = ()
) -> None:
    for key, value in node.value:
        line = f"line {key.start_mark.line + 1}"
        if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            what = repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
            raise RequestError(f"{path}, {line}: {what} is not a key: `evenset config` lists all keys")
        name = f"{prefix}{key.value}"
        if value is node or value in above:
            raise RequestError(f"{path}, {line}: {name} is an alias of what it stands in: write its value")
        if name in places:
            raise RequestError(f"{path}, {line}: {name} was set before, in {places[name]}: keep one of them")
        places[name] = f"{path}, {line}"
        if isinstance(value, yaml.MappingNode):
            _note_places(value, f"{name}.", path, places, (*above, node))


def _override(tree: dict[str, Any], override: str, places: dict[str, str]) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RequestError(f"{override!r} is no override: write key=value, such as sample.size=10_000")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or error
        raise RequestError(f"override {override}: the value is not YAML: {problem}") from error
    *above, last = key.strip().split(".")
    for depth, name in enumerate(above, start=1):
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
            places[".".join(above[:depth])] = f"override {override}"
        tree = tree[name]
    tree[last] = value
    places[key.strip()] = f"override {override}"


def _sentences(error: ValidationError, places: dict[str, str], origin: str, kind: type[Config]) -> str:
    """Pydantic's errors, a line for each key: where it was written, the value, and what would do."""
    known = {key for key, _, _ in entries(kind())}
    known |= {above for key in known for above in _upwards(key)}
    told: dict[str, list[tuple[int, str]]] = {}
    for found in error.errors():
        names, value, message = [str(name) for name in found["loc"]], found["input"], found["msg"]
        # what follows the key is the branch of a union or the place in a list
        key = next((k for k in _upwards(".".join(names)) if k in known), "")
        if found["type"] == "extra_forbidden":
            key = ".".join(names)
            shown = "" if isinstance(value, dict) else f" ({value!r} is its value)"
            told[key] = [(len(names), f"{key} is not a key{shown}. {_nearest(key, known)}")]
            continue
        if found["type"] == "invalid_key":
            sentence = f"{names[-1]} is not a key: `evenset config` lists all keys"
        elif found["type"] == "model_type":
            sentence = f"{key} cannot be {value!r}: it is a section, its keys go below it"
        elif found["type"] == "value_error":
            message = message.removeprefix("Value error, ")
            sentence = message if isinstance(value, dict) else f"{key}: {message}"
        else:
            sentence = f"{key} cannot be {value!r}: {message[0].lower()}{message[1:]}"
        told.setdefault(key, []).append((len(names), sentence))
    lines = []
    for key, sentences in told.items():
        place = next((places[p] for p in _upwards(key) if p in places), origin)
        deepest = max(depth for depth, _ in sentences)  # the branch of a union that came closest
        lines.append(f"{place}: {'; or '.join(dict.fromkeys(s for d, s in sentences if d == deepest))}")
    return "\n".join(lines)


def _upwards(key: str) -> Iterator[str]:
    while key:
        yield key
        key = key.rpartition(".")[0]


def _nearest(key: str, known: set[str]) -> str:
    def likeness(other: str) -> float:
        whole = difflib.SequenceMatcher(None, key, other).ratio()
        lasts = difflib.SequenceMatcher(None, key.rpartition(".")[2], other.rpartition(".")[2]).ratio()
        return max(whole, lasts - 0.05)  # the right name in the wrong section is a near miss too

    best = max(sorted(known), key=likeness)
    return f"Did you mean {best}?" if likeness(best) > 0.6 else "`evenset config` lists all keys."
