"""The errors that end a command with one sentence, and the exit code that each stands for."""

from __future__ import annotations

from typing import ClassVar


class EvensetError(Exception):
    """Base of the errors whose message is meant for a person; shown without a traceback.

    Args:
        sentence: What is wrong, where, and what to do.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence  # Ray Data adds its own advice to `args` of what a task raises


class RequestError(EvensetError):
    """What was asked for cannot be done as asked: a bad config, path, pool or run directory."""

    exit_code = 2


class RunError(EvensetError):
    """A sound request that failed while it ran; running it again resumes where it stopped."""

    exit_code = 1


class BatchError(RunError):
    """There is no memory for a batch of ``encoder.batch_size`` samples; there may be for one of fewer."""


def causes(error: BaseException) -> list[BaseException]:
    """The chain of errors behind ``error``, itself first.

    Ray raises on the driver an error of its own that carries what the worker raised in ``.cause``;
    the worker's error stands in for it, since its text is the sentence and Ray's is a traceback.
    """
    chain: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        found = queue.pop(0)
        if found is None or found in chain:
            continue
        inner = getattr(found, "cause", None)
        if isinstance(inner, BaseException):
            queue.insert(0, inner)
        else:
            chain.append(found)
            queue += [found.__cause__, found.__context__]
    return chain
