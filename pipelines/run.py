"""The stages in their order: what is finished and unchanged is kept, what is not is done (again)."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import yaml

from modalities.base import FittedEncoder
from pipelines.config import Config, entries
from pipelines.embed import embed
from pipelines.errors import RequestError
from pipelines.export import check_formats, export
from pipelines.manifest import (
    Basis,
    Manifest,
    delete_manifest,
    read_begun,
    read_manifest,
    versions,
    write_begun,
    write_manifest,
)
from pipelines.pool import Pool, check_numbers, is_embedded, open_pool
from pipelines.progress import Progress
from pipelines.settle import build, decide, device_of, is_settled, recall
from pipelines.startup import start
from pipelines.store import Store, is_absolute

CONFIG = "config.yaml"
LOCK = ".lock"
IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set in the driver of a submitted job, whose working directory is a temporary copy."""
OWNER = ("modality", "source.path", "source.format", "source.column", "source.id_column")
"""The keys that say which pool a run directory belongs to."""


@dataclass(frozen=True)
class Stage:
    """A step of a run.

    Attributes:
        name: As on the command line.
        folder: Holds its manifest.
        outputs: Everything that it writes.
        after: The stage whose results it reads, which in turn stands for those before.
    """

    name: str
    folder: str
    outputs: tuple[str, ...]
    after: str | None


STAGES = (
    Stage("embed", "embeddings", ("rejected/embed", "encoder", "embeddings"), None),
    Stage("cluster", "tree", ("tree",), "embed"),
    Stage("sample", "curated", ("curated",), "cluster"),
    Stage("export", "export", ("export",), "sample"),
    Stage("report", "report", ("report.html", "metrics.json", "report"), "sample"),
)
BY_NAME = {stage.name: stage for stage in STAGES}


def run(config: Config, stages: tuple[str, ...] | None = None, *, debug: bool = False) -> None:
    """Do the named stages (all of them by default), each only if it is not done.

    Args:
        config: What was asked for.
        stages: Names of stages, in order. A stage before them that is not current is an error.
        debug: Let Ray say what it has to say.

    Raises:
        RequestError: The request cannot be met; nothing was started.
        RunError: A stage failed.
    """
    Runner(config, debug=debug).run(stages or tuple(BY_NAME))


class Runner:
    """One invocation on one run directory.

    Args:
        config: What was asked for.
        debug: Let Ray say what it has to say.

    Raises:
        ModalityError: The pool is empty or not there, or there is no such modality or encoder.
        RequestError: The run directory belongs to something else, or the numbers cannot work.
    """

    def __init__(self, config: Config, *, debug: bool = False) -> None:
        self._store = Store(config.output or "")
        _check_owner(config, self._store)
        self._pool: Pool = open_pool(config)
        check_numbers(config, self._pool.size, "samples in the pool")
        check_formats(config, self._pool)
        self._embedded, self._learns = is_embedded(self._pool), False
        if not self._embedded:
            config = recall(config, self._pool.modality, read_begun(self._store, "embeddings"))
            self._learns = isinstance(build(config, self._pool.modality), FittedEncoder)
        self._config = config
        self._debug = debug
        self._ready = False
        self._progress = Progress(self._store)

    def run(self, stages: tuple[str, ...]) -> None:
        """Do ``stages``; see `run`."""
        self._check_upstream(stages[0])
        with _alone(self._store):
            self._write_config()
            if IN_JOB in os.environ and not is_absolute(self._config.output or ""):
                self._progress.say(
                    f"results go to {self._store.url}, which Ray deletes some time after the job: set"
                    " `output` to a bucket or an absolute path to keep them"
                )
            for name in stages:
                self._do(BY_NAME[name])
        self._progress.say(f"results: {self._store.url}")

    def _do(self, stage: Stage) -> None:
        if not self._embedded and not is_settled(self._config):
            self._make_ready()
        basis = self._basis(stage)
        done = read_manifest(self._store, stage.folder)
        if done and not basis.changes(done.basis):
            self._progress.say(f"{stage.name}: kept, nothing changed since it finished ({done.finished})")
            return
        self._make_ready()
        self._clear(stage, basis, done)
        began = time.monotonic()
        try:
            counts = self._work(stage.name)
        finally:
            self._progress.finish()
        seconds = round(time.monotonic() - began, 3)
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        write_manifest(
            self._store, stage.folder, Manifest(stage.name, basis, counts, seconds, finished, versions())
        )

    def _work(self, name: str) -> dict[str, Any]:
        config, store, progress = self._config, self._store, self._progress
        if name == "embed":
            return embed(config, store, progress, self._pool)
        if name == "export":
            return export(config, store, progress, self._pool)
        if name == "sample":
            from pipelines.sample import sample

            return sample(config, store, progress)
        if name == "report":
            from pipelines.report import report

            return report(config, store, progress)
        from pipelines.cluster import cluster

        embedded = read_manifest(store, BY_NAME["embed"].folder)
        if embedded:
            check_numbers(
                config, int(embedded.counts["embedded"]), "samples left to cluster after the rejects"
            )
        return cluster(config, store, progress)

    def _make_ready(self) -> None:
        """Start Ray and settle what is auto, once and only when there is something to do."""
        if not self._ready:
            start(self._config, self._store, debug=self._debug)
            if not self._embedded:
                self._config = decide(self._config, self._pool.modality)
                self._write_config()
            self._ready = True

    def _clear(self, stage: Stage, basis: Basis, done: Manifest | None) -> None:
        """Leave in the outputs of ``stage`` only what was made from ``basis``, and say what will happen."""
        begun = read_begun(self._store, stage.folder)
        if done:
            self._progress.say(f"{stage.name}: done again, because {'; '.join(basis.changes(done.basis))}")
            delete_manifest(self._store, stage.folder)
        if begun is not None and not basis.changes(begun):
            self._progress.say(f"{stage.name}: resumed")
            return
        if begun is not None and not done:
            self._progress.say(f"{stage.name}: begun anew, because {'; '.join(basis.changes(begun))}")
        for output in stage.outputs:
            self._store.delete(output)
        write_begun(self._store, stage.folder, basis)

    def _check_upstream(self, name: str) -> None:
        """Refuse a stage whose inputs are missing or out of date."""
        above: list[Stage] = []
        while after := BY_NAME[above[-1].name if above else name].after:
            above.append(BY_NAME[after])
        for stage in reversed(above):
            done = read_manifest(self._store, stage.folder)
            changes = self._basis(stage).changes(done.basis) if done else []
            if not done or changes:
                state = f"is out of date ({'; '.join(changes)})" if done else "is not finished"
                raise RequestError(
                    f"{name} needs the stage {stage.name}, which {state}: run `evenset {stage.name}` with"
                    " this config first, or `evenset run` for all of them"
                )

    def _basis(self, stage: Stage) -> Basis:
        values = {key: value for key, value, _ in entries(self._config)}
        if stage.after is not None:
            upstream = read_manifest(self._store, BY_NAME[stage.after].folder)
            inputs = {f"result of {stage.after}": upstream.fingerprint if upstream else "none"}
        if stage.name == "embed":
            inputs = {"pool": self._pool.fingerprint}
            values["encoder.device"] = device_of(self._config)
            encoder = [f"encoder.{name}" for name in ("model", "batch_size", "dtype", "device")]
            keys = [*OWNER, *(["cluster.distance"] if self._embedded else encoder)]
            keys += ["seed"] if self._learns else []
        elif stage.name == "cluster":
            # not of the execution: neither shards nor splitting into ones changes a result
            spared = ("cluster.shards", "cluster.split")
            keys = [*(key for key in values if key.startswith("cluster.") and key not in spared), "seed"]
        elif stage.name == "sample":
            keys = [*(key for key in values if key.startswith("sample.")), "seed"]
        elif stage.name == "export":
            keys = ["export.formats"]
        else:
            keys = ["modality"]
        return Basis({key: values[key] for key in keys}, inputs)

    def _write_config(self) -> None:
        """Save the config as it was resolved; the file can be run again as it is."""
        header = "".join(f"# {name} {version}\n" for name, version in versions().items())
        body = yaml.safe_dump(self._config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        self._store.write_bytes(CONFIG, (header + body).encode())


def _check_owner(config: Config, store: Store) -> None:
    """Refuse a directory that is not a run of this pool.

    Raises:
        RequestError: It holds a run of another pool, or something else altogether.
    """
    if not store.exists(CONFIG):
        names = [n["name"].rsplit("/", 1)[-1] for n in _entries(store)]
        if any(not name.startswith(".") for name in names):
            raise RequestError(
                f"output {store.url} is not empty and is no run directory (it has no {CONFIG}): choose"
                " another output, or empty it"
            )
        return
    old = yaml.safe_load(store.read_bytes(CONFIG)) or {}
    for key, value, _ in entries(config):
        section, _, name = key.rpartition(".")
        before = (old.get(section) or {}).get(name) if section in old or section else old.get(name)
        if key in OWNER and before != value:
            raise RequestError(
                f"the run directory {store.url} belongs to another pool: its {key} is {before!r}, and now"
                f" it is {value!r}: choose another output, or delete that directory"
            )


def _entries(store: Store) -> list[dict[str, Any]]:
    try:
        return list(store.filesystem.ls(store.path(""), detail=True))
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise RequestError(f"output {store.url} is a file: name a folder") from error


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """Hold the run directory, where it is on a local disk; the lock ends with the process.

    Raises:
        RequestError: Another process holds it.
    """
    if store.local is None:
        yield
        return
    store.local.mkdir(parents=True, exist_ok=True)
    with (store.local / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RequestError(
                f"another evenset is at work in {store.url}: wait for it, or stop it"
            ) from error
        yield
