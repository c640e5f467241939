"""Ray Data, set up for a stream of whole parts: quiet, strict, and never stuck on a part that kills."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Generator, Sequence
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionResources

from curation.errors import CurationError
from modalities.base import ModalityError, Part
from pipelines.blocks import enter
from pipelines.errors import RequestError
from pipelines.resources import Resources
from pipelines.sizing import Sizing
from pipelines.startup import identity, meet

ATTEMPTS = 2
"""Retries of a part whose process died. Ray's default is without end: a part that always kills its
process would never finish (and never fail)."""


def context(there: Resources | None = None) -> DataContext:
    """A copy of Ray Data's settings with ours; the process's own are left as they are.

    Args:
        there: What is used at most: more is neither taken nor asked of an autoscaler, which would bring
            nothing at all.
    """
    settings = DataContext.get_current().copy()
    settings.enable_progress_bars = False
    settings.print_on_execution_start = False
    settings.raise_original_map_exception = True  # so that a full disk reads as one
    settings.max_errored_blocks = 0
    if there is not None:
        settings.execution_options.resource_limits = ExecutionResources.for_limits(**there.limits)
    return settings


def telling(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn``, whose bad requests come back from a worker as the sentence that they are."""

    @functools.wraps(fn)
    def step(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except (CurationError, ModalityError) as error:
            raise RequestError(str(error)) from error

    return step


def alike(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn``, which works on machines like this one alone: others may join after the check at the start."""
    here = identity()

    @functools.wraps(fn)
    def step(*args: Any, **kwargs: Any) -> Any:
        meet(here)
        return fn(*args, **kwargs)

    return step


def alikes(cls: type) -> Any:
    """``cls``, of which there are actors on machines like this one alone."""
    here = identity()

    @functools.wraps(cls, updated=())
    class Alike(cls):  # type: ignore[misc]  # any class may be its base
        def __init__(self, **kwargs: Any) -> None:
            meet(here)
            super().__init__(**kwargs)

    return Alike


def tasks(parts: Dataset, fn: Callable[..., Any], *, num_cpus: float, **kwargs: Any) -> Dataset:
    """``fn(block, **kwargs)`` for every part, in tasks; consecutive ones run as one."""
    with warnings.catch_warnings():
        # max_retries has no named parameter yet to take the place of the deprecated keywords
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        return parts.map_batches(
            alike(telling(fn)),
            batch_size=1,
            batch_format="pyarrow",
            fn_kwargs=kwargs,
            num_cpus=num_cpus,
            max_retries=ATTEMPTS,
        )


def actors(parts: Dataset, cls: type, *, size: Sizing, **kwargs: Any) -> Dataset:
    """``cls(**kwargs)(block)`` for every part, in a pool of actors that grows and shrinks with the work."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        return parts.map_batches(
            alikes(cls),
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=size.fewest, max_size=size.most, initial_size=size.first),
            fn_constructor_kwargs=kwargs,
            num_cpus=size.cpus,
            num_gpus=size.gpus or None,
            max_restarts=-1,
            max_task_retries=ATTEMPTS,
        )


def rows_of(
    parts: Sequence[Part], build: Callable[[Dataset], Dataset], there: Resources | None = None
) -> Generator[dict[str, Any]]:
    """The rows that the pipeline ``build`` yields for ``parts``, as they are ready.

    Close it: the actors go, and what was asked of an autoscaler is withdrawn, when it ends.

    Args:
        parts: Of the pool.
        build: Adds the steps.
        there: What is used at most, see `context`.
    """
    if not parts:
        return
    with DataContext.current(context(there)):
        yield from build(ray.data.from_arrow([enter(part) for part in parts])).iter_rows()
