"""Ray Data, set up for a stream of whole parts: quiet, strict, and never stuck on a part that kills."""

from __future__ import annotations

import functools
import gc
import warnings
from collections.abc import Callable, Generator, Iterable
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionResources

from modalities.base import Part
from pipelines.attempts import LOADS, Attempts
from pipelines.blocks import enter
from pipelines.errors import RunError
from pipelines.resources import Resources
from pipelines.sizing import Sizing
from pipelines.steps import DIES_AT_LOAD, RETRIES, alike, alikes, telling

LOST = "lost"
"""Column of a part that was set aside: at which work its process died (`pipelines.attempts`)."""

RETRIES_OF_ANY = 100
"""The same where books are kept, which are what ends it. Ray counts against a part also the deaths of a
process that it only waited for."""


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


def watched(fn: Callable[..., Any], attempts: Attempts | None, work: str) -> Callable[..., Any]:
    """``fn``, which sets a part aside that killed the process at this work before, and leaves such alone."""

    @functools.wraps(fn)
    def step(block: pa.Table, **kwargs: Any) -> pa.Table:
        if LOST in block.column_names and block[LOST][0].is_valid:
            return block
        if attempts is None:
            return fn(block, **kwargs)
        part = int(block["part"][0].as_py())
        if not attempts.begin(work, part):
            return pa.table({"part": [part], LOST: [work]})
        done = fn(block, **kwargs)
        attempts.end(work, part)
        return done

    return step


def watched_class(cls: type, attempts: Attempts, work: str) -> Any:
    """``cls``, whose actors do as `watched` says; one that always dies when it begins is given up.

    Raises:
        RunError: It died, `LOADS` times in a row.
    """

    @functools.wraps(cls, updated=())
    class Watched(cls):  # type: ignore[misc]  # any class may be its base
        def __init__(self, **kwargs: Any) -> None:
            me = ray.get_runtime_context().get_actor_id()
            if not attempts.begin("load", me, LOADS):
                raise RunError(DIES_AT_LOAD)
            super().__init__(**kwargs)
            attempts.end("load", me)

        def __call__(self, block: pa.Table) -> pa.Table:
            return watched(super().__call__, attempts, work)(block)

    return Watched


def tasks(
    parts: Dataset,
    fn: Callable[..., Any],
    *,
    num_cpus: float,
    attempts: Attempts | None = None,
    **kwargs: Any,
) -> Dataset:
    """``fn(block, **kwargs)`` for every part, in tasks; consecutive ones run as one.

    With ``attempts``, a part that kills its process goes on as one that is `LOST`.
    """
    with warnings.catch_warnings():
        # max_retries has no named parameter yet to take the place of the deprecated keywords
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        return parts.map_batches(
            alike(telling(watched(fn, attempts, fn.__name__))),
            batch_size=1,
            batch_format="pyarrow",
            fn_kwargs=kwargs,
            num_cpus=num_cpus,
            max_retries=RETRIES if attempts is None else RETRIES_OF_ANY,
        )


def actors(
    parts: Dataset, cls: type, *, size: Sizing, attempts: Attempts | None = None, **kwargs: Any
) -> Dataset:
    """``cls(**kwargs)(block)`` for every part, in a pool of actors that grows and shrinks with the work.

    With ``attempts``, a part that kills its actor goes on as one that is `LOST`.
    """
    if attempts is not None:
        cls = watched_class(cls, attempts, cls.__name__.lower())
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
            max_task_retries=RETRIES if attempts is None else RETRIES_OF_ANY,
        )


def rows_of(
    parts: Iterable[Part], build: Callable[[Dataset], Dataset], there: Resources | None = None
) -> Generator[dict[str, Any]]:
    """The rows that the pipeline ``build`` yields for ``parts``, as they are ready.

    Close it: the actors go, and what was asked of an autoscaler is withdrawn, when it ends.

    Args:
        parts: Of the pool; they go into the object store one by one.
        build: Adds the steps.
        there: What is used at most, see `context`.
    """
    blocks = [ray.put(enter(part)) for part in parts]
    if not blocks:
        return
    try:
        with DataContext.current(context(there)):
            yield from build(ray.data.from_arrow_refs(blocks)).iter_rows()
    except Exception as error:
        _let_go(error)
        raise


def _let_go(error: BaseException) -> None:
    """Lets the actors go that an error of Ray Data holds by its traceback, and with them their CPUs.

    They stay as long as someone has a handle of one: the frames of the executor, which is over, do. Whoever
    looks at the error, or runs again before Python's collector comes by, would wait for these CPUs for ever.
    What happened in a worker stands in the error's text.
    """
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            left += [one.__cause__, one.__context__, getattr(one, "cause", None)]
    gc.collect()
