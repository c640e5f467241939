"""Threads for loops whose work releases the interpreter's lock, with one BLAS thread each."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

T = TypeVar("T")

_RUN = 1 << 16  # elements: what is made of a run on the way stays in a core's cache
_ALONE = 8  # runs that one thread takes: waking others takes as long


def allowed() -> int:
    """Threads that this process may use: its cores, or fewer where OMP_NUM_THREADS says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return max(1, min(cores, int(asked))) if asked.isdigit() and int(asked) else cores


def each(threads: int, work: Callable[[Iterator[T]], None], items: Iterable[T]) -> None:
    """Runs `work` in some threads, each drawing from one shared iterator until it is empty.

    BLAS and OpenMP keep to one thread meanwhile: tiles are shared out here, where results do not depend on
    it. Fewer items than threads take no more threads than that: waking one takes as long as a small tile.
    """
    if isinstance(items, Sized):
        threads = max(1, min(threads, len(items)))
    # a library that was loaded since has threads of its own
    blas, openmp = _libraries("torch" in sys.modules)

    def alone(mine: Iterator[T]) -> None:
        with openmp.limit(limits=1):  # which asks every thread for its own number
            work(mine)

    with _quiet(blas):
        if threads == 1:
            alone(iter(items))
            return
        shared = _Shared(items)
        for done in [_pool(threads).submit(alone, shared) for _ in range(threads)]:
            done.result()


def in_runs(n: int, work: Callable[[slice], Any]) -> None:
    """Has `work` done for every run of n elements, by threads where there are many.

    For what NumPy does element by element, where one core takes a tenth of a second for 10 million.
    """
    starts = range(0, n, _RUN)
    if len(starts) <= _ALONE:
        work(slice(0, n))
        return

    def some(mine: Iterator[int]) -> None:
        for start in mine:
            work(slice(start, min(n, start + _RUN)))

    each(allowed(), some, starts)


class _Shared(Iterator[T]):
    """An iterator that threads may draw from together."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)
        self._lock = threading.Lock()

    def __next__(self) -> T:
        with self._lock:
            return next(self._items)


_quieting = threading.Lock()


@contextmanager
def _quiet(blas: ThreadpoolController) -> Iterator[None]:
    """One thread of these libraries in this process, unless another thread sees to that already.

    Two that take turns in remembering a number of threads and giving it back would leave it at one.
    """
    if not _quieting.acquire(blocking=False):
        yield
        return
    try:
        with blas.limit(limits=1):
            yield
    finally:
        _quieting.release()


@cache
def _libraries(with_torch: bool) -> tuple[ThreadpoolController, ThreadpoolController]:
    # apart, since a limit that ends gives back the threads of all libraries that it knows
    every = ThreadpoolController()
    return every.select(user_api="blas"), every.select(user_api="openmp")


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="curation")


def _begin_anew() -> None:
    """In a forked child there are none of the threads, nor who would release the lock."""
    global _quieting
    _pool.cache_clear()
    _quieting = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
