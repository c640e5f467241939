"""Vision models of timm, without their classifier: DINOv2, DINOv3, supervised ones, folders of weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from modalities.base import ModalityError
from modalities.encoders.pixels import Pixels
from modalities.encoders.torch_encoder import TorchEncoder, why

if TYPE_CHECKING:
    import torch

SOURCES = ("hf-hub:", "local-dir:")


class Timm(TorchEncoder):
    """A model of timm as ``timm:ARCH.TAG``, for rasters of as many bands as it was trained on.

    Args:
        argument: ``ARCH.TAG`` of timm (without a tag its default one), ``hf-hub:ORG/NAME``, or
            ``local-dir:FOLDER`` with a ``config.json`` as timm writes it. ``ARCH/FILE`` takes the weights
            from a file, and with nothing after the slash they are random, the same ones every time: of use
            for tests alone.
        kind: ``raster``.
        batch_size: rows of a batch.
        dtype: arithmetic of the model, see `modalities.encoders.device.place`.
        device: see there.

    Raises:
        ModalityError: timm knows no such model, or the folder has none.
    """

    accepts: ClassVar[tuple[str, ...]] = ("raster",)

    def __init__(
        self,
        argument: str,
        *,
        kind: str = "raster",
        batch_size: int | None = None,
        dtype: str | None = None,
        device: str | None = None,
    ) -> None:
        self.spec = f"timm:{argument}"
        self._name, self._slash, self._file = argument, "", ""
        if not argument.startswith(SOURCES):
            self._name, self._slash, self._file = argument.partition("/")
            _check_file(self._file, self.spec)
        elif argument.startswith("local-dir:"):
            self._name = f"local-dir:{Path(argument.removeprefix('local-dir:')).expanduser()}"
        self.dim, pixels = self._described()
        super().__init__(self.spec, pixels, batch_size=batch_size, dtype=dtype, device=device)

    def _described(self) -> tuple[int, Pixels]:
        """The length of the embeddings and the preprocessing, of a model without memory for its weights."""
        import torch
        from timm.data import resolve_data_config

        if not self._name:
            raise ModalityError(
                f"encoder.model {self.spec!r}: write timm:ARCH.TAG, such as"
                " timm:vit_small_patch14_dinov2.lvd142m."
            )
        try:
            with torch.device("meta"):
                model = _create(self._name, pretrained=False)
                config = resolve_data_config({}, model=model)
                features = int(model.head_hidden_size)
        except Exception as error:
            # An unknown name, a tag that the model has not, the hub's client, a damaged folder.
            raise ModalityError(f"encoder.model {self.spec!r}: {why(error)}.{_near(self._name)}") from error
        bands, height, width = config["input_size"]
        bands = getattr(model, "in_chans", bands)  # which a checkpoint may give apart from its input's size
        return features, Pixels(
            (height, width),
            _a_band(config["mean"], bands),
            _a_band(config["std"], bands),
            config["interpolation"],
            float(config["crop_pct"]),
            {"squash": "squash", "border": "longest"}.get(config["crop_mode"], "shortest"),
        )

    def _build(self) -> Any:
        import torch

        # Random weights are drawn without disturbing anybody else's random numbers.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if self._file:
                _check_file(self._file, self.spec)  # this machine may be another than the one that asked
                return _from_file(self._name, self._file)
            model = _create(self._name, pretrained=not self._slash)
        model.reset_classifier(0)
        return model

    def _images(self, pixels: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self._model(pixels)
        return output


def _create(name: str, *, pretrained: bool) -> Any:
    """A model with its classifier: only so does timm insist that all weights are there and fit."""
    import timm

    return timm.create_model(name, pretrained=pretrained)


def _from_file(name: str, file: str) -> Any:
    """A model with the weights of a checkpoint: all but a classifier, of any classes, which it may lack."""
    import timm
    from timm.models import load_state_dict

    model = timm.create_model(name, num_classes=1)
    whole = set(model.state_dict())
    model.reset_classifier(0)
    classifier = whole - set(model.state_dict())
    weights = load_state_dict(str(_path(file)), weights_only=True)
    model.load_state_dict({key: weights[key] for key in weights if key not in classifier}, strict=True)
    return model


def _check_file(file: str, spec: str) -> None:
    if file and not _path(file).is_file():
        raise ModalityError(
            f"encoder.model {spec!r}: there is no file {str(_path(file))!r} here. For weights of timm write"
            " timm:ARCH.TAG, for those of a folder timm:local-dir:FOLDER."
        )


def _path(file: str) -> Path:
    return Path(file).expanduser()


def _a_band(values: Sequence[float], bands: int) -> tuple[float, ...]:
    """One value a band; where they are of other bands it is their average, as in models that timm saves."""
    if len(values) == bands:
        return tuple(values)
    return (sum(values) / len(values),) * bands


def _near(name: str) -> str:
    """Names that may have been meant."""
    import timm
    from timm.models import is_model, split_model_name_tag

    if name.startswith(SOURCES):
        return ""
    arch, _ = split_model_name_tag(name)
    if is_model(arch):
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{arch}.*")]
        return f" Its tags are {', '.join(tags) or 'none'}."
    from difflib import get_close_matches

    found = get_close_matches(arch, timm.list_models(), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(found)}?" if found else ""
