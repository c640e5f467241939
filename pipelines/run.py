"""The stages in their order: what is finished and unchanged is kept, what is not is done (again)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import ray
import yaml

from modalities.base import MAX_PIXELS, FittedModality
from modalities.encoders.base import FittedEncoder
from modalities.mapper import R, T, threads
from pipelines import index
from pipelines.config import Config, entries
from pipelines.embed import embed
from pipelines.errors import BatchError, EvensetError, RequestError, causes
from pipelines.export import check_formats, export
from pipelines.leftovers import leave, sweep
from pipelines.manifest import (
    Basis,
    Manifest,
    delete_begun,
    delete_manifest,
    read_begun,
    read_manifest,
    versions,
    write_begun,
    write_manifest,
)
from pipelines.owner import CONFIG, IN_JOB, OWNER, alone, check_owner, settled_paths
from pipelines.pool import Pool, check_numbers, is_embedded, open_pool
from pipelines.progress import Progress
from pipelines.quantities import scaled
from pipelines.resources import resources
from pipelines.retries import Retries
from pipelines.secrets import hidden
from pipelines.settle import build, changed, decide, device_of, halved, is_settled, restored
from pipelines.sharding import check_places
from pipelines.startup import blame, start
from pipelines.store import Store, is_absolute
from pipelines.thinning import check_thinning


@dataclass(frozen=True)
class Stage:
    """A step of a run.

    Attributes:
        name: As on the command line.
        folder: Holds its manifest.
        outputs: Everything that it writes.
        after: The stage whose results it reads, which in turn stands for those before.
        resumable: It goes on from the parts that are there. Any other begins with empty outputs, or files
            of a killed attempt would stay among its own.
    """

    name: str
    folder: str
    outputs: tuple[str, ...]
    after: str | None
    resumable: bool = False


STAGES = (
    Stage("embed", "embeddings", ("rejected/embed", "encoder", "embeddings"), None, resumable=True),
    Stage("cluster", "tree", ("tree",), "embed"),
    Stage("sample", "curated", ("thinned", "curated"), "cluster"),
    Stage("export", "export", ("export",), "sample", resumable=True),
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
        self._config = config = settled_paths(config)
        self._free_size = config.encoder.batch_size == "auto"
        self._debug = debug
        self._ready = self._joined = self._clusters = False
        self._progress = Progress(self._store)
        self._retries = Retries()
        check_owner(config, self._store)
        self._pool: Pool = open_pool(config, self._look_into)
        check_numbers(config, self._pool.size, "samples in the pool")
        check_formats(config, self._pool)
        check_thinning(self._pool)
        self._embedded, self._learns = is_embedded(self._pool), False
        if not self._embedded:
            config = restored(config, self._pool.modality, read_begun(self._store, "embeddings"))
            modality = self._pool.modality
            self._learns = isinstance(build(config, modality), FittedEncoder)
            self._learns |= isinstance(modality, FittedModality) and modality.learns
            self._learns |= config.encoder.normalize == "centre"
        self._config = config

    def run(self, stages: tuple[str, ...]) -> None:
        """Do ``stages``; see `run`."""
        self._check_upstream(stages[0])
        self._clusters = "cluster" in stages  # until it is seen that the tree is kept
        if {"cluster", "sample"} & set(stages):
            self._check_left()
        with alone(self._store):
            sweep(self._store)  # of a run that was killed
            self._write_config()
            if self._pool.source.decided:
                self._progress.say(self._pool.source.decided)
            if IN_JOB in os.environ and not is_absolute(self._config.output or ""):
                self._progress.say(
                    f"results go to {self._store.url}, which Ray deletes some time after the job: set"
                    " `output` to a bucket or an absolute path to keep them"
                )
            try:
                for name in stages:
                    self._do_in_memory(BY_NAME[name])
                sweep(self._store)  # of processes that were killed, and whose work others did
            except BaseException:  # Ctrl-C as well: nobody will wait for what is still being done
                if self._joined:
                    leave(self._store)
                raise
            finally:
                self._retries.close()
        self._progress.say(f"results: {self._store.url}")

    def _do_in_memory(self, stage: Stage) -> None:
        """`_do`, again and again with batches of half as many samples while memory runs out over one."""
        while True:
            try:
                return self._do(stage)
            except Exception as error:
                if not self._free_size or not any(isinstance(cause, BatchError) for cause in causes(error)):
                    raise
            self._halve_batches()  # by now nothing holds the error, which holds the encoder's processes

    def _do(self, stage: Stage) -> None:
        if not self._embedded and not is_settled(self._config):
            self._make_ready()
        basis = self._basis(stage)
        done = read_manifest(self._store, stage.folder)
        if done and not basis.changes(done.basis):
            self._progress.say(f"{stage.name}: kept, nothing changed since it finished ({done.finished})")
            self._clusters &= stage.name != "cluster"
            return
        if stage.name in ("cluster", "sample"):
            self._check_left()
        self._make_ready()
        self._clear(stage, basis, done)
        began, retried = time.monotonic(), self._retries.total
        try:
            counts = self._work(stage.name)
        except Exception as error:
            if not any(isinstance(cause, EvensetError) for cause in causes(error)):
                blame(self._store, error)
            raise
        finally:
            self._progress.finish()
        if self._retries.total > retried:
            counts["retries"] = self._retries.total - retried
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

            return sample(config, store, progress, self._pool.modality)
        if name == "report":
            from pipelines.report import report

            return report(config, store, progress)
        from pipelines.cluster import cluster

        return cluster(config, store, progress)

    def _check_left(self) -> None:
        """Refuse what the embedded samples cannot give, while the results of an earlier request are there.

        Raises:
            RequestError: More clusters than samples are left, or a target that they cannot fill.
        """
        stage = BY_NAME["embed"]
        done = read_manifest(self._store, stage.folder)
        if done and not self._basis(stage).changes(done.basis):
            left = int(done.counts["embedded"])
            check_numbers(self._config, left, "samples left to cluster after the rejects")

    def _look_into(self, look: Callable[[T], R], items: Sequence[T], size: int) -> Iterable[R]:
        """A `modalities.mapper.Mapper` for the files of the pool: the cluster, where that takes long."""
        if size < index.LARGE or len(items) == 1:
            return threads(look, items, size)
        self._progress.say(
            f"embed: looks for the samples in {len(items):,} files of {scaled(size, 'B')}, once, in as many"
            " at a time as there are CPUs"
        )
        self._start()
        return index.on_cluster(look, items, resources(self._config.ray))

    def _start(self) -> None:
        self._joined |= not ray.is_initialized()
        start(self._config, self._store, debug=self._debug, say=self._progress.say)

    def _make_ready(self) -> None:
        """Start Ray and settle what is auto, once and only when there is something to do."""
        if not self._ready:
            self._start()
            if any("://" in url for url in (self._store.url, self._pool.url)):
                self._retries.open()
            if self._clusters:
                check_places(self._config, resources(self._config.ray))
            if not self._embedded:
                self._config = decide(self._config, self._pool, self._progress.say)
                self._write_config()
            self._ready = True

    def _halve_batches(self) -> None:
        """Where batches need more memory than there is; embed, which they decide, begins anew."""
        if self._joined:  # nothing that is still being done may be written among what comes
            self._retries.close()
            leave(self._store)
            self._ready = False
        before = self._config.encoder.batch_size
        self._config = halved(self._config)
        self._write_config()
        now = self._config.encoder.batch_size
        self._progress.say(f"embed: no memory for batches of {before}, so encoder.batch_size is {now}")

    def _clear(self, stage: Stage, basis: Basis, done: Manifest | None) -> None:
        """Leave in the outputs of ``stage`` only what was made from ``basis``, and say what will happen."""
        begun = read_begun(self._store, stage.folder)
        if done:
            self._progress.say(f"{stage.name}: done again, because {'; '.join(basis.changes(done.basis))}")
            delete_manifest(self._store, stage.folder)
        changes = basis.changes(begun) if begun is not None else []
        if begun is not None and not changes and stage.resumable:
            self._progress.say(f"{stage.name}: resumed")
            return
        if begun is not None and not done:
            why = "; ".join(changes) or "it was stopped before it was done"
            self._progress.say(f"{stage.name}: begun anew, because {why}")
        delete_begun(self._store, stage.folder)  # first: while it is there, the parts are trusted
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
        values = {key: value for key, value, _ in entries(hidden(self._config))}
        modality = self._pool.modality
        own = [key for key in values if key.startswith(f"{self._config.section}.")]
        late = [key for key in own if key.split(".")[1] in modality.sampling_settings]
        if stage.after is not None:
            upstream = read_manifest(self._store, BY_NAME[stage.after].folder)
            inputs = {f"result of {stage.after}": upstream.fingerprint if upstream else "none"}
        if stage.name == "embed":
            inputs = {"pool": self._pool.fingerprint}
            undecided = self._config.encoder.num_gpus == "auto"
            values["encoder.device"] = "auto" if undecided else device_of(self._config)
            encoder = [f"encoder.{name}" for name in ("model", "batch_size", "dtype", "device")]
            keys = [*OWNER, *(["cluster.distance"] if self._embedded else encoder)]
            if not self._embedded:
                keys += [f"encoder.{name}" for name in changed(self._config)]
            keys += ["seed"] if self._learns else []
            keys += ["source.keep"] if values["source.keep"] else []
            if values["limits.pixels"] != MAX_PIXELS and not self._embedded:
                keys += ["limits.pixels"]
            keys += [key for key in own if key not in late]
        elif stage.name == "cluster":
            # how it runs changes no result, and splitting into ones neither
            spared = {f"cluster.{key}" for key in ("shards", "num_gpus", "reduce", "memory", "checkpoint")}
            if all(part == 1 for part in values["cluster.split"] or []):
                spared.add("cluster.split")
            keys = [*(key for key in values if key.startswith("cluster.") and key not in spared), "seed"]
        elif stage.name == "sample":
            keys = [*(key for key in values if key.startswith("sample.")), "seed"]
            keys += late if modality.thinned_by else []
        elif stage.name == "export":
            keys = ["export.formats"]
        else:
            keys = ["modality"]
        return Basis({key: values[key] for key in keys}, inputs)

    def _write_config(self) -> None:
        """Save the config as it was resolved; but for secrets, the file can be run again as it is."""
        header = "".join(f"# {name} {version}\n" for name, version in versions().items())
        body = yaml.safe_dump(
            hidden(self._config).model_dump(mode="json"), sort_keys=False, allow_unicode=True
        )
        self._store.write_bytes(CONFIG, (header + body).encode())
