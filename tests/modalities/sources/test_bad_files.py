"""One table or shard among others that cannot be used costs itself alone, and is one rejected sample."""

import encodings.utf_8_sig  # noqa: F401 - what nobody could import who may not read root's Python
import json
import multiprocessing.dummy  # noqa: F401
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modalities.base import ModalityError
from modalities.sources import faults, open_source
from modalities.sources.paths import list_files
from modalities.text import Text

from .tars import tar_of
from .test_paths import somebody

HTML = b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n"


def write_parquet(path, texts):
    pq.write_table(pa.table({"text": texts, "n": range(len(texts))}), path)


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(texts)))


def write_tar(path, texts):
    path.write_bytes(tar_of([(f"{i}.txt", text.encode()) for i, text in enumerate(texts)]))


FORMS = {
    "parquet": (".parquet", write_parquet),
    "jsonl": (".jsonl", write_jsonl),
    "webdataset": (".tar", write_tar),
}

FAULTS = {
    "gone": (lambda path: path.touch(), "The file is gone, or is no regular file."),
    "dangling": (lambda path: path.symlink_to("nowhere"), "The file is gone, or is no regular file."),
    "looping": (lambda path: path.symlink_to(path), "The file cannot be read (ELOOP)."),
    "closed": (lambda path: path.touch(0), "The file may not be read (permission denied)."),
}


@pytest.fixture
def folder():
    """One that nobody may look into, as a folder of pytest is not."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def read(listing, fmt, **options):
    pool = open_source(fmt, listing, **{"column": None, "id_column": None} | options, modality=Text())
    return [record for part in pool.parts() for record in pool.read(part)]


@pytest.mark.parametrize("place", ["a", "c", "e"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("fmt", FORMS)
def test_a_file_that_cannot_be_read(folder, fmt, fault, place):
    suffix, write = FORMS[fmt]
    spoil, reason = FAULTS[fault]
    bad = folder / f"{place}{suffix}"
    for name in ("b", "d"):
        write(folder / f"{name}{suffix}", [f"one of {name}", f"two of {name}"])
    spoil(bad)
    listing = list_files(str(folder))
    if fault == "gone":
        bad.unlink()
    with somebody():
        records = read(listing, fmt)
    good = [r.payload.decode() for r in records if r.payload is not None]
    assert good == [f"{number} of {name}" for name in ("b", "d") for number in ("one", "two")]
    (lost,) = [r for r in records if r.payload is None]
    assert (lost.id, lost.uri, lost.reason) == (f"{bad.name}#0", f"{bad}#0", reason)


@pytest.mark.parametrize("content", [b"", HTML, b"PAR1 nothing of the kind PAR1"])
@pytest.mark.parametrize("fmt", ["parquet", "webdataset"])
def test_a_file_that_is_none_of_its_kind(tmp_path, fmt, content):
    suffix, write = FORMS[fmt]
    write(tmp_path / f"b{suffix}", ["one", "two"])
    for name in ("a", "c"):
        (tmp_path / f"{name}{suffix}").write_bytes(content)
    records = read(str(tmp_path), fmt)
    assert [r.payload for r in records] == [None, b"one", b"two", None]
    assert [r.id for r in records if r.payload is None] == [f"a{suffix}#0", f"c{suffix}#0"]
    assert all(r.reason.endswith(".") for r in records if r.payload is None)
    assert fmt != "parquet" or records[0].reason == "The file is no Parquet, or is damaged."


def test_lines_of_a_file_that_is_no_json_are_rejected_one_by_one(tmp_path):
    write_jsonl(tmp_path / "b.jsonl", ["one"])
    (tmp_path / "a.jsonl").write_bytes(b"")
    (tmp_path / "c.jsonl").write_bytes(HTML)
    records = read(str(tmp_path), "jsonl")
    assert [(r.payload, r.reason) for r in records] == [
        (b"one", None), (None, "The line is not valid JSON."), (None, "The line is not valid JSON."),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"other": ["x"], "n": [1]}, "The file has no column 'text'."),
        ({"text": ["x"]}, "The file has no column 'n'."),
        ({"text": [1], "n": [1]}, "The column 'text' of the file is of type int64, unlike that of the first"),
        ({"text": ["x"], "n": [1.5]}, "The column 'n' of the file is of type double, unlike that of the"),
    ],
)
@pytest.mark.parametrize("role", [{"id_column": "n"}, {"keep": ["n"]}])
def test_a_column_that_one_table_lacks_or_has_otherwise(tmp_path, columns, reason, role):
    pq.write_table(pa.table({"text": ["one", None], "n": [7, 8]}), tmp_path / "b.parquet")
    pq.write_table(pa.table(columns), tmp_path / "c.parquet")
    records = read(str(tmp_path), "parquet", column="text", **role)
    assert [r.payload for r in records] == [b"one", None, None]
    assert records[-1].id == "c.parquet#0"
    assert records[-1].reason.startswith(reason)


@pytest.mark.parametrize("fmt", ["parquet", "jsonl"])
def test_a_column_that_the_first_readable_table_lacks_is_an_error_of_the_config(tmp_path, fmt):
    suffix, write = FORMS[fmt]
    write(tmp_path / f"b{suffix}", ["one"])
    (tmp_path / f"a{suffix}").symlink_to("nowhere")
    for options in ({"column": "body"}, {"column": "text", "id_column": "id"}):
        with pytest.raises(ModalityError, match=rf"b\{suffix} has no (column|key) '(body|id)': .*text, n"):
            read(str(tmp_path), fmt, **options)


@pytest.mark.parametrize("fmt", FORMS)
def test_a_pool_of_one_file_that_cannot_be_read_is_refused(folder, fmt):
    suffix, write = FORMS[fmt]
    path = folder / f"a{suffix}"
    write(path, ["one"])
    path.chmod(0)
    with somebody(), pytest.raises(ModalityError, match=rf"{path} cannot be read"):
        read(str(path), fmt)


def test_a_pool_without_a_table_that_can_be_read_is_refused(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.parquet").write_bytes(HTML)
    with pytest.raises(ModalityError, match=r"a\.parquet cannot be read as Parquet"):
        read(str(tmp_path), "parquet")


class Unanswered(OSError):
    """As a client of a store has it."""


@pytest.mark.parametrize(
    "error", [ConnectionError(), TimeoutError(), Unanswered(), OSError(24, "Too many open files")]
)
@pytest.mark.parametrize("fmt", FORMS)
def test_a_store_that_does_not_answer_costs_no_file(tmp_path, monkeypatch, fmt, error):
    """Rejected files would be those of a bad minute."""
    suffix, write = FORMS[fmt]
    for name in ("a", "b"):
        write(tmp_path / f"{name}{suffix}", ["one"])
    listing = list_files(str(tmp_path))

    def silent(self, path, *_, **__):
        if Path(path).name.startswith("b"):
            raise error
        return Path(path).open("rb")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.open", silent)
    assert not faults.is_its_own(error)
    with pytest.raises(ModalityError, match=rf"b\{suffix} cannot be read"):
        read(listing, fmt)
