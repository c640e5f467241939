import ast
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines import demo


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    assert demo.build_digits(folder) == folder / "pool"
    return folder


@pytest.fixture(scope="module")
def docstrings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docstrings")
    assert demo.build_docstrings(folder) == folder / "pool.parquet"
    return folder


def test_digits_follow_a_long_tail(digits):
    labels = pq.read_table(digits / "labels.parquet")
    assert labels["id"].to_pylist() == sorted(path.name for path in (digits / "pool").iterdir())
    counts = np.array([n for _, n in sorted(Counter(labels["label"].to_pylist()).items())])
    assert len(counts) == 10
    np.testing.assert_allclose(counts / counts[0], np.arange(1, 11) ** -1.2, atol=0.02)


def test_digits_are_the_pictures_of_scikit_learn(digits):
    from sklearn.datasets import load_digits

    found = load_digits()
    for name in pq.read_table(digits / "labels.parquet")["id"].to_pylist()[::40]:
        pixels = np.asarray(Image.open(digits / "pool" / name))
        np.testing.assert_allclose(pixels * (16 / 255), found.images[int(name[:4])], atol=0.04)


def test_both_pools_are_the_same_every_time(digits, tmp_path):
    demo.build_digits(tmp_path)
    again = pq.read_table(tmp_path / "labels.parquet")
    assert again.equals(pq.read_table(digits / "labels.parquet"))


@pytest.mark.slow
def test_documentation_is_large_distinct_and_long_tailed(docstrings):
    pool = pq.read_table(docstrings / "pool.parquet")
    labels = pq.read_table(docstrings / "labels.parquet")
    texts = pool["text"].to_pylist()
    assert len(texts) >= 20_000
    assert len(set(texts)) == len(set(pool["id"].to_pylist())) == len(texts)
    assert pool["id"].equals(labels["id"])
    assert pool.column_names == ["id", "text"]
    assert all(demo.CHARACTERS[0] <= len(text) <= demo.CHARACTERS[1] for text in texts)
    assert all(" ".join(text.split()) == text for text in texts[::50])
    sizes = sorted(Counter(labels["label"].to_pylist()).values())
    assert len(sizes) > 50
    assert sizes[-1] > 20 * sizes[len(sizes) // 2]


def test_paragraphs_are_found_where_documentation_is(tmp_path):
    words = "a paragraph that is long enough to be taken as one"
    source = f'"""{words} 1\n\n  {words}\n  2\n"""\nclass A:\n  """{words} 3"""\n'
    source += f'  if 1:\n    def f(): "{words} 4"\n'
    (tmp_path / "x.py").write_text(source)
    ast.parse(source)
    assert list(demo._docstring_paragraphs(tmp_path / "x.py")) == [f"{words} {n}" for n in range(1, 5)]


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"def (", b"\xff\xfe\x00", b"print 'old'", b"x = " + b"(" * 5000, b'"' + b"short" + b'"',
     b"'" + b"\\ud800" + b"a" * 50 + b"'"],
)  # fmt: skip
def test_odd_files_have_no_paragraphs(content, tmp_path):
    (tmp_path / "x.py").write_bytes(content)
    assert list(demo._docstring_paragraphs(tmp_path / "x.py")) == []


def test_the_random_draw_is_as_long_tailed_as_the_pool(digits):
    """The draw that is compared with must not follow the hashes that made the pool."""
    labels = dict(
        zip(*(column.to_pylist() for column in pq.read_table(digits / "labels.parquet")), strict=True)
    )
    keys = demo.keys_of(labels)
    drawn = demo.smallest(demo.draws(demo.mixed(keys), demo.RANDOM_DRAW), keys, 100)
    ids = list(labels)
    pool, draw = (
        np.array([Counter(labels[i] for i in some)[str(digit)] for digit in range(10)])
        for some in (ids, [ids[row] for row in drawn])
    )
    assert demo.balance(draw).kl_to_uniform > 0.6 * demo.balance(pool).kl_to_uniform


@pytest.mark.slow
def test_the_whole_demo(tmp_path):
    """As a newcomer runs it; it names the reports, and both pools went through every stage."""
    command = [sys.executable, "-m", "pipelines", "demo"]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, samples in (("digits", 442), ("docstrings", 20_000)):
        run = tmp_path / "runs" / "demo" / "runs" / name
        assert f"{run}/report.html" in done.stdout.replace("\n", "")
        assert (run / "report.html").stat().st_size > 1_000_000
        embedded = pq.read_table(run / "embeddings", columns=["id"]).num_rows
        rejected = run / "rejected" / "embed"
        assert embedded + (pq.read_table(rejected).num_rows if rejected.exists() else 0) == samples
        assert f"{samples:,}" in done.stdout
