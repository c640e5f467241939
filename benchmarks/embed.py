"""Does the pipeline keep its encoder busy? Samples a second of a run, and of the bare model in a loop.

    EVENSET_DATA=... python -m benchmarks.embed [--models minilm,vit-b-32] [--seeds 3]

A cell embeds real texts (20 Newsgroups by MiniLM) or images (CIFAR-10 by an open_clip ViT-B-32, random
weights) with `evenset embed` and one encoder actor: on a GPU where there is one, else on one core, the other
cores left to reading and decoding. The rate of the run is taken between its first part and its last, from
when their files were written, so Ray's start and the model's loading are left out. Before and after it, the
same batches go through the same model in a plain loop, one thread, its inputs made and on the device
beforehand; the mean of the two is the bare rate. Claim: the run has at least 95 % of it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

import modalities
from benchmarks import cells
from benchmarks.cells import Cell
from benchmarks.features import MINILM, data_folder, without_headers
from benchmarks.tables import Verdict, conclude, table
from pipelines.blocks import part_name

LEAST = 0.95
MODELS = {"minilm": ("text", MINILM), "vit-b-32": ("image", "open_clip:ViT-B-32/")}
PARTS = {"minilm": (8, 256), "vit-b-32": (10, 256)}
"""Parts of the pool, and rows of each; twenty times the rows on a GPU, as far as there are any."""
ON_GPU = 20
BATCH_SIZE = 32
_SECONDS = 20.0  # of a turn of the bare model


def measure(model: str, threads: int, seed: int, small: bool) -> dict[str, Any]:
    """Samples a second of a run and of the bare model, on the same rows; seeds repeat it."""
    import torch

    modality, name = MODELS[model]
    parts, rows = (3, 64) if small else PARTS[model]
    rows *= ON_GPU if torch.cuda.is_available() and not small else 1
    with tempfile.TemporaryDirectory() as folder:
        pool, config = Path(folder) / "pool.parquet", Path(folder) / "embed.yaml"
        samples = drawn(model, parts * rows, seed)
        pq.write_table(pa.table({modality: samples}), pool, row_group_size=rows)
        encoder = {"model": name, "batch_size": BATCH_SIZE, "actors": [1, 1]}
        wanted = {"modality": modality, "source": {"path": str(pool), "column": modality}, "encoder": encoder}
        config.write_text(yaml.safe_dump(wanted | {"output": f"{folder}/run"}))
        loop, dtype = bare(modality, name, samples[: len(samples) if modality == "text" else rows])
        rates = [loop(0.0 if small else _SECONDS)]
        command = [sys.executable, "-m", "pipelines", "embed", str(config)]
        subprocess.run(command, cwd=cells.ROOT, check=True, capture_output=True)
        rates.append(loop(0.0 if small else _SECONDS))
        written = sorted(
            Path(folder, "run", part_name("embeddings", i)).stat().st_mtime for i in range(parts)
        )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "1 core"
    return {
        "bare": mean(rates),
        "spread": max(rates) / min(rates) - 1,
        "run": steady(written, rows),
        "samples": parts * rows,
        "device": f"{device}, {dtype}",
    }


def steady(written: Sequence[float], rows: int) -> float:
    """Samples a second between the first part and the last.

    Args:
        written: When the parts of a run were written, ascending, in seconds.
        rows: Of each part.
    """
    return rows * (len(written) - 1) / (written[-1] - written[0])


def drawn(model: str, count: int, seed: int) -> list[Any]:
    """So many texts or encoded images of a real pool; fewer where it has fewer."""
    file, column = ("newsgroups20.parquet", "text") if model == "minilm" else ("cifar10.parquet", "image")
    found = pq.read_table(data_folder() / file, columns=[column])[column]
    chosen = np.random.default_rng(seed).permutation(len(found))[:count]
    samples = found.take(chosen).to_pylist()
    if column == "text":
        posts = (post.encode() if isinstance(post, str) else post for post in samples)
        samples = [without_headers(post) or "nothing" for post in posts]
    return samples


def bare(modality: str, name: str, samples: Sequence[Any]) -> tuple[Callable[[float], float], str]:
    """The model in a loop over the batches of these samples, as a part has them.

    Returns:
        What runs the loop for so many seconds, at least once, and returns samples a second; and the dtype.
    """
    import torch

    kind = modalities.modality(modality)
    encoder: Any = modalities.encoder(name, kind, batch_size=BATCH_SIZE)
    encoder.open()
    encoder.load()
    device, takes = torch.device(encoder.device), encoder._takes
    step = PARTS["minilm"][1] if modality == "text" else len(samples)
    calls: list[Callable[[], torch.Tensor]] = []
    for start in range(0, len(samples), step):
        payloads = [s.encode() if isinstance(s, str) else s for s in samples[start : start + step]]
        ready = [encoder.prepare(kind.decode(payload)) for payload in payloads]
        for rows in encoder.batches(ready):
            batch = [ready[row] for row in rows]
            for arrays in encoder._stage(batch, batch):
                sent = [torch.from_numpy(array).to(device) for array in arrays]
                calls.append(_call(encoder, takes, sent))
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def loop(seconds: float) -> float:
        with torch.inference_mode():
            for call in calls[:2]:  # the first times are slow
                call()
            wait()
            began, turns = time.perf_counter(), 0
            while not turns or time.perf_counter() - began < seconds:
                for call in calls:
                    call()
                wait()
                turns += 1
        return turns * len(samples) / (time.perf_counter() - began)

    return loop, encoder.dtype


def _call(encoder: Any, takes: Any, sent: Sequence[Any]) -> Callable[[], Any]:
    if encoder.truncates:
        return lambda: encoder._texts(sent[0], sent[1])
    pixels = takes.normalised(sent[0], next(encoder._model.parameters()).dtype)
    return lambda: encoder._images(pixels)


def plan(asked: argparse.Namespace) -> Iterator[Cell]:
    """The cells in order."""
    for seed in range(asked.seeds):
        for model in asked.models or MODELS:
            yield Cell({"model": model, "threads": 1, "seed": seed, "small": asked.small}, "torch")


def report(lines: Sequence[dict[str, Any]], claims: bool) -> int:
    """Prints the table and the verdicts; returns the exit code."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["cell"]["model"], line["found"]["device"]), []).append(line["found"])
    rows, verdicts = [], []
    for (model, device), found in groups.items():
        both = [median(one[key] for one in found) for key in ("bare", "run")]
        ratio = median(one["run"] / one["bare"] for one in found)
        rates = [f"{rate:.1f}" for rate in both]
        name, samples = f"{MODELS[model][1]}, {device}", f"{found[0]['samples']:,}"
        rows.append([name, str(len(found)), samples, *rates, f"{ratio:.3f}"])
        claim = f"{model}, {device}: at least {LEAST:.0%} of the bare model"
        verdicts.append(Verdict(claim, ratio >= LEAST, f"{ratio:.1%}, median of {len(found)}"))
    print("embed: samples a second of a run, and of the bare model in a loop; medians over seeds")
    print(cells.described(lines) + "\n")
    print(table(["", "seeds", "samples", "bare /s", "run /s", "ratio"], rows))
    return conclude(verdicts) if claims else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cells that are missing and prints the table; returns 1 where a claim or a cell failed."""
    parser = cells.parser("embed", __doc__, threads="1")
    parser.add_argument("--models", type=cells.names, help=f"of {', '.join(MODELS)}")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.models or ()) - set(MODELS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    return cells.main(asked, measure, plan, report)


if __name__ == "__main__":
    sys.exit(main())
