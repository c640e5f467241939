"""A process that does the steps of one part, some samples at a time, and is replaced when it dies of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError

from modalities.base import Modality, Part, Source
from modalities.encoders.base import Encoder
from modalities.sources.embeddings import EmbeddingsSource
from pipelines import encode
from pipelines.attempts import LOADS
from pipelines.errors import RunError
from pipelines.isolate import Died
from pipelines.startup import meet
from pipelines.steps import DIES_AT_LOAD, DIES_AT_START, telling
from pipelines.watchdog import watchdog

DEATHS = (RayActorError, OutOfMemoryError, WorkerCrashedError, NodeDiedError)
"""What Ray raises where a process died, of whatever."""


@dataclass(frozen=True)
class Work:
    """What there is to do with a part, and where.

    Attributes:
        source: Reads it.
        modality: What its samples are.
        encoder: Not loaded yet; None where nothing is encoded.
        timeout: Seconds for one sample to be decoded.
        num_cpus: Of the process.
        num_gpus: Of the process.
        identity: What every machine has to be like (`pipelines.startup.identity`).
    """

    source: Source
    modality: Modality
    encoder: Encoder | None
    timeout: float
    num_cpus: float | None
    num_gpus: float | None
    identity: dict[str, str]


class Lone:
    """Does the steps of one part in a process of its own.

    Args:
        work: What to do.

    Attributes:
        deaths: How many processes died at it.
        encodes: Whether the process needs the model.
    """

    def __init__(self, work: Work) -> None:
        resources = {"num_cpus": work.num_cpus or 0, "num_gpus": work.num_gpus or 0}
        self._start = ray.remote(max_restarts=0, max_task_retries=0, **resources)(_Steps).remote
        self._work = ray.put(work)
        self._actor: ActorHandle | None = None
        self._machine = ""
        self.deaths = 0
        self.encodes = False

    def run(self, step: str, *args: Any) -> Any:
        """The result of one of the steps below.

        Raises:
            Died: The process died of it. Where its whole machine was lost, the step is done on another.
        """
        while True:
            actor = self._started()
            try:
                return ray.get(getattr(actor, step).remote(*args))
            except DEATHS as death:
                self.close()
                if self._machine in {node["NodeID"] for node in ray.nodes() if node["Alive"]}:
                    self.deaths += 1
                    raise Died(" ".join(str(death).split("\n")[0].split())) from death

    def load(self) -> None:
        """From now on the process has the model; it is a fresh one."""
        self.close()
        self.encodes = True

    def close(self) -> None:
        """End the process."""
        if self._actor is not None:
            ray.kill(self._actor)
        self._actor = None

    def _started(self) -> ActorHandle:
        for attempt in range(LOADS):
            if self._actor is not None:
                break
            self._actor = self._start(self._work)
            try:
                self._machine = ray.get(self._actor.begin.remote(self.encodes))
            except DEATHS as death:
                self.close()
                if attempt == LOADS - 1:
                    raise RunError(DIES_AT_LOAD if self.encodes else DIES_AT_START) from death
        return self._actor


class _Steps:
    def __init__(self, work: Work) -> None:
        self._work = work

    @telling
    def begin(self, encodes: bool) -> str:
        meet(self._work.identity)
        if encodes:
            self._encoder.load()
        return str(ray.get_runtime_context().get_node_id())

    @property
    def _encoder(self) -> Encoder:
        assert self._work.encoder is not None
        return self._work.encoder

    @telling
    def read(self, part: Part) -> pa.Table:
        return encode.tabled(self._work.source.read(part), self._work.source.kept)

    @telling
    def vectors(self, part: Part) -> tuple[list[str], list[str], NDArray[Any], list[str | None]]:
        assert isinstance(self._work.source, EmbeddingsSource)
        return self._work.source.read_vectors(part)

    def decode(self, samples: pa.Table) -> None:
        with watchdog(self._work.timeout) as alive:
            for payload in samples["payload"]:
                alive()
                if payload.is_valid:
                    with suppress(Exception):  # whatever it raises, the process lives
                        self._work.modality.decode(payload.as_py())

    def prepare(self, samples: pa.Table) -> pa.Table:
        return encode.prepared(samples, self._work.modality, self._encoder, self._work.timeout)

    def batches(self, samples: pa.Table, rows: Sequence[int]) -> list[list[int]]:
        """The batches of these rows, as numbers of rows of the table."""
        batches = self._encoder.batches(encode.inputs(self._encoder, samples, rows))
        return [[rows[i] for i in batch] for batch in batches]

    def encode(
        self, samples: pa.Table, batch: Sequence[int], places: Sequence[int]
    ) -> tuple[NDArray[np.float32], list[str | None]]:
        """The embeddings of some places of a batch, or the reasons why there are none."""
        try:
            return self._encoder.encode_batch(encode.inputs(self._encoder, samples, batch), places)
        except RuntimeError as error:
            raise encode.failed("a batch", error) from error
