"""A finished run over a pool of digits, with a made-up tree: what a report is made of."""

import json

import numpy as np
import pyarrow as pa
from PIL import Image
from sklearn.datasets import load_digits

from curation import chance
from pipelines.config import Config
from pipelines.manifest import Basis, Manifest, write_manifest
from pipelines.progress import Progress
from pipelines.report import report
from pipelines.store import Store

HOSTILE = ["<script>document.title='owned'<script>.png", "<img src=x onerror=alert(1)>.png", "{{ 7*7 }}.png"]
LEAVES, MIDDLE, TOP = 60, 12, 4


def configured(pool, modality="image", form="files"):
    return Config.model_validate(
        {"modality": modality, "source": {"path": str(pool), "format": form}, "seed": 3}
    )


class Run:
    """A pool of digits on disk, and a finished run over it with a made-up tree of three levels.

    With ``places``, longitudes and latitudes (samples, 2), every sample lies somewhere, but for NaN.
    """

    def __init__(self, folder, part_rows=1024, samples=1300, repeats=1, places=None):  # the rows of a part
        self.pool, self.store = folder / "pool", Store(str(folder / "run"))
        self.pool.mkdir()
        images = load_digits().images
        self.ids = sorted([f"digit-{i:04d}.png" for i in range(samples - len(HOSTILE))] + HOSTILE)
        for row, name in enumerate(self.ids):
            pixels = Image.fromarray((images[row] * 15).astype(np.uint8))
            pixels.save(self.pool / name)
        self.config = configured(self.pool)
        self.part_rows, self.repeats, self.places = part_rows, repeats, places
        self._write_tree(samples)
        self._write_curated()
        self._write_rejects_and_manifests()

    def _write_tree(self, samples):
        random = np.random.default_rng(0)
        tail = 1 / np.arange(1, LEAVES + 1) ** 1.2
        self.leaf = np.r_[np.arange(LEAVES), random.choice(LEAVES, samples - LEAVES, p=tail / tail.sum())]
        self.parents = [np.arange(LEAVES) % MIDDLE, np.arange(MIDDLE) % TOP, None]
        self.keys = pa.array(chance.digests(self.ids), pa.binary(16))
        sizes = np.bincount(self.leaf, minlength=LEAVES)
        for level, parent in enumerate(self.parents, start=1):
            table = pa.table(
                {
                    "cluster": np.arange(len(sizes)),
                    "centroid": pa.FixedSizeListArray.from_arrays(
                        pa.array(np.zeros(2 * len(sizes), np.float32)), 2
                    ),
                    "size": sizes,
                    "parent": pa.array([None] * len(sizes) if parent is None else parent, pa.int64()),
                }
            )
            half = len(sizes) // 2
            self.store.write_table(f"tree/level-{level}/centroids/part-00000.parquet", table[:half])
            self.store.write_table(f"tree/level-{level}/centroids/part-00001.parquet", table[half:])
            if parent is not None:
                sizes = np.bincount(parent, weights=sizes, minlength=[MIDDLE, TOP][level - 1]).astype(
                    np.int64
                )
        for part, start in enumerate(range(0, samples, self.part_rows)):
            rows = slice(start, start + self.part_rows)
            ids = pa.array(self.ids[rows])
            self.store.write_table(
                f"embeddings/part-{part:05d}.parquet",
                self._placed(
                    {"id": ids, "uri": [str(self.pool / i) for i in self.ids[rows]], "key": self.keys[rows]},
                    rows,
                ),
            )
            self.store.write_table(
                f"tree/level-1/assignments/part-{part:05d}.parquet",
                pa.table({"id": ids, "key": self.keys[rows], "cluster": self.leaf[rows]}),
            )

    def _placed(self, columns, rows):
        if self.places is None:
            return pa.table(columns)
        lon, lat = (pa.array(column[rows], from_pandas=True) for column in self.places.T)
        return pa.table(columns | {"lon": lon, "lat": lat})

    def _write_curated(self):
        rows = np.concatenate([np.flatnonzero(self.leaf == leaf)[:3] for leaf in range(LEAVES)])
        self.curated = self.leaf[rows]
        middle = self.parents[0][self.curated]
        path = np.stack([self.parents[1][middle], middle, self.curated], axis=1)
        table = self._placed(
            {
                "id": [self.ids[r] for r in rows],
                "key": self.keys.take(pa.array(rows)),
                "repeats": pa.array([self.repeats] * len(rows), pa.int32()),
                "path": pa.array(path.tolist(), pa.list_(pa.int64())),
            },
            rows,
        )
        self.store.write_table("curated/part-00000.parquet", table[:50])
        self.store.write_table("curated/part-00001.parquet", table[50:])

    def _write_rejects_and_manifests(self):
        rejects = pa.table(
            {
                "id": ["a.png", "b.png", "<b>c</b>.png"],
                "uri": ["a", "b", "c"],
                "reason": ["empty", "empty", "<i>torn</i>"],
            }
        )
        self.store.write_table("rejected/embed/part-00000.parquet", rejects)
        for folder, stage in (("embeddings", "embed"), ("tree", "cluster"), ("curated", "sample")):
            notes = ["level 2 takes one cluster an input & says so"] if stage == "cluster" else []
            counts = {"rows": 1300, "digest": "a5", "notes": notes}
            counts |= {"estimated_s": 61.0, "took_s": 74.5} if stage == "cluster" else {}
            manifest = Manifest(stage, Basis({}, {}), counts, 75.2, "2026-01-01T00:00:00", {"numpy": "2.4.6"})
            write_manifest(self.store, folder, manifest)

    def report(self):
        counts = report(self.config, self.store, Progress(self.store))
        return counts, json.loads(self.store.read_bytes("metrics.json"))

    @property
    def html(self):
        return self.store.read_bytes("report.html").decode()
