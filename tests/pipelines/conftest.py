"""Pools on disk, and the command line run in this process."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from pipelines.cli import main


class Outcome:
    """What a command printed, and how it ended."""

    def __init__(self, code, text):
        self.code, self.text = code, text

    def __repr__(self):
        return f"exit code {self.code}:\n{self.text}"


@pytest.fixture
def evenset(capfd, ray_cluster):
    """Run ``evenset`` with arguments; Ray is the session's."""

    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        streams = capfd.readouterr()
        return Outcome(end.value.code or 0, streams.out + streams.err)

    return run


@pytest.fixture
def refused(capfd):
    """Run ``evenset`` and expect one sentence and exit code 2, before any Ray is needed."""

    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        streams = capfd.readouterr()
        outcome = Outcome(end.value.code, streams.out + streams.err)
        assert outcome.code == 2, outcome
        assert "Traceback" not in outcome.text
        assert len(outcome.text.strip().splitlines()) == 1, outcome
        return outcome.text

    return run


@pytest.fixture
def write_config(tmp_path):
    """Write a config file; sections are keyword arguments."""

    def write(path, name="job", **sections):
        source = {"path": str(path), **sections.pop("source", {})}
        cluster = {
            "resample": {"steps": 1},
            **sections.pop("cluster", {}),
        }
        tree = {"source": source, "output": str(tmp_path / "run"), "cluster": cluster, **sections}
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(tree))
        return file

    return write


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def digits():
    """The payloads of 300 real images, PNG."""
    return [png((image * 15).astype(np.uint8)) for image in load_digits().images[:300]]


def blobs(n, d=8, seed=0):
    """Points (n, d), float32, around ten centres of very different weight."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(10, d))
    weight = 1 / np.arange(1, 11) ** 1.2
    chosen = random.choice(10, n, p=weight / weight.sum())
    return (centres[chosen] + 0.1 * random.normal(size=(n, d))).astype(np.float32)


def write_vectors(file, vectors, ids=None):
    """A Parquet pool of embeddings."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    names = [str(i) for i in range(len(vectors))] if ids is None else ids
    pq.write_table(pa.table({"id": names, "embedding": column}), file)
    return file


def rows_of(store, folder, key="id"):
    """All rows of a folder of Parquet as a dict from id to row."""
    tables = [store.read_table(rel) for rel in store.list(folder)]
    return {row[key]: row for table in tables for row in table.to_pylist()}
