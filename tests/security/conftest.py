"""A canary that hostile files try to create, and the command line of tests/pipelines."""

import pathlib
import pickle

import pytest

from tests.pipelines.conftest import digits, evenset, refused, write_config

__all__ = ["digits", "evenset", "refused", "write_config"]


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


class Canary:
    """A file that is there once anybody ran what a hostile file says."""

    def __init__(self, path):
        self.path = path

    @property
    def object(self):
        return Hostile(self.path)

    @property
    def pickle(self):
        return pickle.dumps(self.object)

    @property
    def sang(self):
        return self.path.exists()


@pytest.fixture
def canary(tmp_path):
    made = Canary(tmp_path / "canary")
    pickle.loads(made.pickle)
    assert made.sang  # it would
    made.path.unlink()
    yield made
    assert not made.sang
