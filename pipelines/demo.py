"""Two pools from what is already on the machine, curated from end to end: `make demo`.

Handwritten digits that scikit-learn carries, thinned to a long tail, and the documentation of the Python
standard library and of the installed packages. Their labels are never in the pools; they only serve to print
how balanced the results are.
"""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console
from rich.table import Table

from curation.balance import Balance, balance
from curation.chance import draws, keys_of, mixed, order, smallest

ZIPF = 1.2
"""Exponent of the long tail of the digits: the r-th digit keeps 1 / r^ZIPF of the samples of the first."""

PARAGRAPHS = 20_000
"""Paragraphs at which the walk over the packages ends."""

CHARACTERS = (40, 140)
"""Shorter paragraphs say nothing, longer ones are cut off by reading time rather than by meaning."""

# Salts of this page's own draws. They must differ: the digits that one of them kept have small hashes in it.
THINNING = np.uint64(0x7468696E)
RANDOM_DRAW = np.uint64(0x64726177)
FILES = np.uint64(0x66696C65)


def build_digits(folder: Path) -> Path:
    """Write scikit-learn's handwritten digits as PNG files, thinned to a long tail.

    The pool is ``folder/pool/*.png``; ``folder/labels.parquet`` (id, label) lies outside of it.

    Returns:
        The folder of the pool.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    names = [f"{row:04d}.png" for row in range(len(digits.target))]
    kept: list[int] = []
    for digit in range(10):
        rows = np.flatnonzero(digits.target == digit)
        share = (digit + 1) ** -ZIPF
        keys = keys_of(names[row] for row in rows)
        kept.extend(rows[smallest(draws(mixed(keys), THINNING), keys, max(1, round(len(rows) * share)))])
    kept.sort()
    pool = folder / "pool"
    pool.mkdir(parents=True, exist_ok=True)
    for row in kept:
        pixels = np.rint(digits.images[row] * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).save(pool / names[row])
    _write_labels(folder, [names[row] for row in kept], [str(digits.target[row]) for row in kept])
    return pool


def build_docstrings(folder: Path) -> Path:
    """Write the paragraphs of the installed documentation as one Parquet file (id, text).

    A paragraph is 40 to 140 characters of a docstring, with white space collapsed; each text occurs once.
    Source files of the standard library and the installed packages are read in the order of their hashes
    until there are `PARAGRAPHS`, so packages have the shares that they have on the machine.
    ``folder/labels.parquet`` (id, label) holds the top-level module of each.

    Returns:
        The file of the pool.
    """
    seen: set[str] = set()
    ids: list[str] = []
    texts: list[str] = []
    labels: list[str] = []
    for top, module, number, text in _paragraphs():
        if text in seen:
            continue
        seen.add(text)
        ids.append(f"{module}#{number}")
        texts.append(text)
        labels.append(top)
        if len(ids) == PARAGRAPHS:
            break
    folder.mkdir(parents=True, exist_ok=True)
    pool = folder / "pool.parquet"
    pq.write_table(pa.table({"id": ids, "text": texts}), pool, row_group_size=4096)
    _write_labels(folder, ids, labels)
    return pool


def demo(root: Path = Path("runs/demo")) -> None:
    """Build both pools, curate each, and print how balanced the classes are before and after.

    Args:
        root: folder for pools and results; what is finished there is kept.
    """
    from pipelines.config import Config
    from pipelines.run import run  # Ray takes seconds to import, and building the pools needs none of it

    console = Console()
    builders = {"digits": build_digits, "docstrings": build_docstrings}
    # the larger pool is built while the smaller one is curated
    pools = ProcessPoolExecutor(len(builders), get_context("spawn"))
    built = {
        name: pools.submit(build, root / name)
        for name, build in builders.items()
        if not (root / name / "labels.parquet").exists()
    }
    for name in builders:
        began = time.perf_counter()
        if name in built:
            built[name].result()
        config = Config.model_validate(settings(name, root))
        console.print(f"\n[bold]{name}[/bold] from {config.source.path}", soft_wrap=True)
        run(config)
        console.print(class_balance(root / name / "labels.parquet", Path(str(config.output)), name))
        console.print(f"{name}: {time.perf_counter() - began:.0f} s")
    pools.shutdown()
    console.print("\nOpen in a browser:")
    for name in builders:
        console.print(f"  {(root / 'runs' / name / 'report.html').resolve()}", soft_wrap=True)


def settings(name: str, root: Path) -> dict[str, Any]:
    """Return the config of one of the two runs."""
    if name == "digits":
        return {
            "modality": "image",
            "source": {"path": str(root / "digits" / "pool")},
            "encoder": {"model": "patches"},
            "cluster": {"n_clusters": [80, 20]},
            "sample": {"size": 100},
            "output": str(root / "runs" / "digits"),
        }
    return {
        "modality": "text",
        "source": {
            "path": str(root / "docstrings" / "pool.parquet"),
            "format": "parquet",
            "column": "text",
            "id_column": "id",
        },
        "encoder": {"model": "sentence-transformers:all-MiniLM-L6-v2", "actors": [2, 2]},
        "cluster": {"n_clusters": [1000, 200, 40], "tol": 0.001},
        "sample": {"size": "10%"},
        "output": str(root / "runs" / "docstrings"),
    }


def class_balance(labels: Path, output: Path, name: str) -> Table:
    """Tabulate the balance of the hidden classes in the pool, a random draw and the curated set.

    Args:
        labels: Parquet with id and label.
        output: run directory.
        name: of the pool, for the title.
    """
    known = pq.read_table(labels)
    label_of = dict(zip(known["id"].to_pylist(), known["label"].to_pylist(), strict=True))
    curated = pq.read_table(output / "curated", columns=["id", "repeats"])
    ids = pq.read_table(output / "embeddings", columns=["id"])["id"].to_pylist()
    copies = np.repeat(curated["id"].to_numpy(zero_copy_only=False), curated["repeats"].to_numpy())
    keys = keys_of(ids)
    drawn = smallest(draws(mixed(keys), RANDOM_DRAW), keys, min(len(copies), len(ids)))
    table = Table(
        title=f"Classes of {name} ({len(set(label_of.values()))} hidden labels)",
        caption="The labels took no part: what is balanced is what the encoder sees as alike.",
    )
    for column in ("", "samples", "KL to uniform", "effective classes", "classes present"):
        table.add_column(column, justify="left" if not column else "right")
    classes = sorted(set(label_of.values()))
    for title, members in (
        ("pool", ids),
        ("random draw", [ids[row] for row in drawn]),
        ("curated", copies.tolist()),
    ):
        measured = _balance(members, label_of, classes)
        table.add_row(
            title,
            f"{len(members):,}",
            f"{measured.kl_to_uniform:.3f}",
            f"{measured.effective_number:.1f}",
            f"{measured.coverage * len(classes):.0f}",
        )
    return table


def _balance(ids: Iterable[str], label_of: dict[str, str], classes: list[str]) -> Balance:
    counts = Counter(label_of[i] for i in ids)
    return balance([counts[label] for label in classes])


def _write_labels(folder: Path, ids: list[str], labels: list[str]) -> None:
    pq.write_table(pa.table({"id": ids, "label": labels}), folder / "labels.parquet")


def _paragraphs() -> Iterator[tuple[str, str, int, str]]:
    """Yield (top-level module, module, number in it, paragraph) of all source files, files in hash order."""
    paths = sysconfig.get_paths()
    roots = dict.fromkeys(Path(paths[name]) for name in ("stdlib", "purelib", "platlib"))
    found = {path.relative_to(root).as_posix(): path for root in roots for path in _source_files(root)}
    names = list(found)
    keys = keys_of(names)
    for i in order(draws(mixed(keys), FILES), keys):
        parts = Path(names[i]).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        for number, text in enumerate(_docstring_paragraphs(found[names[i]])):
            yield parts[0], module, number, text


def _source_files(folder: Path, top: bool = True) -> Iterator[Path]:
    """Yield the source files below a folder."""
    for path in folder.iterdir():
        # Installed packages may lie below the standard library, and tests document nothing.
        if path.name in ("tests", "test") or (top and path.name in ("site-packages", "dist-packages")):
            continue
        if path.is_dir():
            yield from _source_files(path, top=False)
        elif path.suffix == ".py":
            yield path


def _docstring_paragraphs(file: Path) -> Iterator[str]:
    """Yield the paragraphs of one file's docstrings; a file that does not parse has none."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    stack: list[ast.AST] = [tree]
    while stack:  # only bodies are visited: expressions hold no docstrings
        node = stack.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)) if text else ():
                paragraph = " ".join(paragraph.split())
                if CHARACTERS[0] <= len(paragraph) <= CHARACTERS[1] and _is_unicode(paragraph):
                    yield paragraph
        stack.extend(reversed([child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]))


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)
