"""At which parts did processes die? A part that was begun and never ended is known by an actor's books."""

from __future__ import annotations

from contextlib import suppress

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

ATTEMPTS = 2
"""How often a part is begun before it is set aside: the process died each time."""

LOADS = 5
"""How often an actor begins to load its model; of these deaths no part can be the cause."""


class Attempts:
    """The books of one stage, kept in an actor beside the driver. Travels to workers as it is.

    Ray tries again what died, but does not tell whether it ever worked, and gives up on what waited for the
    dead process as well. Here only what was under way counts.
    """

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # books that are lost are begun anew, and parts get more attempts
        books = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Books)
        self._books: ActorHandle = books.options(scheduling_strategy=here).remote()

    def begin(self, work: str, part: int | str, most: int = ATTEMPTS) -> bool:
        """Whether to do this ``work`` on a part here: not if it was begun ``most`` times and never ended."""
        machine = ray.get_runtime_context().get_node_id()
        return bool(ray.get(self._books.begin.remote(work, part, machine)) < most)

    def end(self, work: str, part: int | str) -> None:
        """Nobody died of it."""
        self._books.end.remote(work, part)

    @property
    def restarts(self) -> int:
        """How many processes died at work on a part, as far as somebody came back to it."""
        return int(ray.get(self._books.restarts.remote()))

    def close(self) -> None:
        """Leave no actor behind."""
        with suppress(RayError):
            ray.kill(self._books)


class _Books:
    def __init__(self) -> None:
        self._begun: dict[tuple[str, int | str], list[str]] = {}  # on which machines
        self._restarts = 0

    def begin(self, work: str, part: int | str, machine: str) -> int:
        """Begin, and say of how many processes this work may have been the death."""
        earlier = self._begun.get((work, part), [])
        if earlier:
            self._restarts += 1
            alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
            earlier = [other for other in earlier if other in alive]  # the others died of their machine's end
        self._begun[work, part] = [*earlier, machine]
        return len(earlier)

    def end(self, work: str, part: int | str) -> None:
        self._begun.pop((work, part), None)

    def restarts(self) -> int:
        return self._restarts
