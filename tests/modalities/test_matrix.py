"""Which forms of a pool go with which modality: each cell of the table in docs/modalities.md is played."""

import gzip
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow

import modalities
from modalities import ModalityError, plugins
from modalities.satellite_settings import SatelliteSettings
from modalities.sources import EmbeddingsSource
from tests.modalities.scenes import values, write_scene
from tests.modalities.sources.tars import tar_of

ROOT = Path(__file__).parents[2]
COUNT = 3
"""Samples of every pool."""


def pictures(folder):
    for i in range(COUNT):
        buffer = io.BytesIO()
        Pillow.fromarray(np.full((8, 8), 60 * i, np.uint8)).save(buffer, "PNG")
        yield buffer.getvalue()


def texts(folder):
    yield from (f"Text {i}, שלום.".encode() for i in range(COUNT))


def tiles(folder):
    for i in range(COUNT):
        write_scene(folder / "x.tif", values(seed=i))
        yield (folder / "x.tif").read_bytes()


def sounds(folder):
    from evenset_audio.waveform import encode_wav

    yield from (encode_wav(np.sin(np.arange(8000) / (i + 2)).astype(np.float32), 8000) for i in range(COUNT))


MODALITIES = {
    "image": ("image", ".png", pictures),
    "text": ("text", ".txt", texts),
    "satellite": ("satellite", ".tif", tiles),
    "plugin": ("evenset_audio.sound:Sound", ".wav", sounds),
}


def write_files(folder, suffix, payloads):
    names = [f"{i}{suffix}" for i in range(len(payloads))]
    for name, payload in zip(names, payloads, strict=True):
        (folder / name).write_bytes(payload)
    return names


def as_folder(folder, suffix, payloads):
    write_files(folder, suffix, payloads)
    return [{"path": folder, "format": "files"}]


def as_glob(folder, suffix, payloads):
    write_files(folder, suffix, payloads)
    return [{"path": f"{folder}/*{suffix}", "format": "files"}]


def as_list(folder, suffix, payloads):
    (folder / "x.lst").write_text("\n".join(write_files(folder, suffix, payloads)))
    return [{"path": f"list:{folder}/x.lst", "format": "files"}]


def as_tar(folder, suffix, payloads):
    tar = tar_of([(f"{i}{suffix}", payload) for i, payload in enumerate(payloads)])
    (folder / "x.tar").write_bytes(tar)
    (folder / "x.tar.gz").write_bytes(gzip.compress(tar))
    return [{"path": folder / name} for name in ("x.tar", "x.tar.gz")]


def as_bytes(folder, suffix, payloads):
    pq.write_table(pa.table({"payload": payloads, "n": range(COUNT)}), folder / "x.parquet")
    return [{"path": folder / "x.parquet", "column": "payload", "id_column": "n"}]


def as_structs(folder, suffix, payloads):
    names = write_files(folder, suffix, payloads)
    held = [None, *payloads[1:]]
    structs = pa.StructArray.from_arrays([pa.array(held, pa.binary()), pa.array(names)], ["bytes", "path"])
    pq.write_table(pa.table({"payload": structs}), folder / "x.parquet")
    return [{"path": folder / "x.parquet", "column": "payload"}]


def as_strings(folder, suffix, payloads):
    strings = [payload.decode("latin-1") for payload in payloads]
    pq.write_table(pa.table({"text": strings}), folder / "x.parquet")
    return [{"path": folder / "x.parquet"}]


def as_addresses(folder, suffix, payloads):
    pq.write_table(pa.table({"file": write_files(folder, suffix, payloads)}), folder / "x.parquet")
    return [{"path": folder / "x.parquet", "column": "file"}]


def as_json_strings(folder, suffix, payloads):
    lines = "\n".join(json.dumps({"text": payload.decode("latin-1")}) for payload in payloads)
    (folder / "x.jsonl").write_text(lines)
    (folder / "x.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return [{"path": folder / name} for name in ("x.jsonl", "x.jsonl.gz")]


def as_json_addresses(folder, suffix, payloads):
    names = write_files(folder, suffix, payloads)
    (folder / "x.jsonl").write_text("\n".join(json.dumps({"file": name}) for name in names))
    return [{"path": folder / "x.jsonl", "column": "file"}]


def as_lines(folder, suffix, payloads):
    (folder / "x.txt").write_bytes(b"\n".join(payload.replace(b"\n", b"") for payload in payloads))
    return [{"path": folder / "x.txt", "format": "txt"}]


def as_scenes(folder, suffix, payloads):
    for i in range(COUNT):
        write_scene(folder / f"{i}.tif", values(height=256, width=256))
    return [{"path": folder, "format": "geotiff"}]


def as_embeddings(folder, suffix, payloads):
    rows = np.eye(COUNT, dtype=np.float32)
    np.save(folder / "x.npy", rows)
    pq.write_table(pa.table({"id": ["a", "b", "c"], "embedding": rows.tolist()}), folder / "x.parquet")
    return [{"path": folder / name, "format": "embeddings"} for name in ("x.npy", "x.parquet")]


FORMS = {
    "folder": as_folder,
    "glob": as_glob,
    "list": as_list,
    "tar": as_tar,
    "bytes": as_bytes,
    "structs": as_structs,
    "strings": as_strings,
    "addresses": as_addresses,
    "jsonl-strings": as_json_strings,
    "jsonl-addresses": as_json_addresses,
    "txt": as_lines,
    "geotiff": as_scenes,
    "embeddings": as_embeddings,
}

CELLS = [f"{form}-{modality}" for form in FORMS for modality in MODALITIES]
REFUSED = {
    **{f"strings-{kind}": "has no column of" for kind in MODALITIES if kind != "text"},
    **{f"jsonl-strings-{kind}": "has no key" for kind in MODALITIES if kind != "text"},
    **{f"{form}-text": "a string is a sample itself" for form in ("addresses", "jsonl-addresses")},
    **{f"txt-{kind}": "holds documents" for kind in MODALITIES if kind != "text"},
    **{f"geotiff-{kind}": "'geotiff' is unknown" for kind in MODALITIES if kind != "satellite"},
}
"""What is said where a form and a modality do not go together."""


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """The pools of a cell, and the modality that is to read them."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "examples/plugin_audio")])
    monkeypatch.setattr(plugins, "_named", set())  # it is this test alone that names one

    def made(cell):
        form, _, kind = cell.rpartition("-")
        name, suffix, samples = MODALITIES[kind]
        (tmp_path / "other").mkdir()
        (tmp_path / "pool").mkdir()
        payloads = list(samples(tmp_path / "other"))
        settings = SatelliteSettings(scale="none") if kind == "satellite" else None
        return FORMS[form](tmp_path / "pool", suffix, payloads), modalities.modality(name, settings)

    return made


@pytest.mark.parametrize("cell", CELLS)
def test_cell(pool, cell):
    pools, modality = pool(cell)
    for how in pools:
        how = {"format": "auto", **how, "path": str(how["path"])}
        if cell in REFUSED:
            with pytest.raises(ModalityError, match=REFUSED[cell]):
                modalities.source(**how, modality=modality).parts()
            continue
        source = modalities.source(**how, modality=modality)
        if isinstance(source, EmbeddingsSource):
            read = [source.read_vectors(part) for part in source.parts()]
            assert [reason for *_, reasons in read for reason in reasons] == [None] * COUNT
            continue
        records = [record for part in source.parts() for record in source.read(part)]
        assert len({record.id for record in records}) == COUNT
        for record in records:
            about = modality.describe(modality.decode(record.payload), record.payload)
            assert about.keys() <= modality.columns.keys()


def test_the_page_names_the_cells_that_work_and_those_that_do_not():
    page = (ROOT / "docs/modalities.md").read_text()
    (head,) = [line for line in page.splitlines() if line.startswith("| pool |")]
    assert head == f"| pool | {' | '.join(MODALITIES)} |"
    table = page[page.index(head) :].split("\n\n")[0].splitlines()[2:]
    cells = [re.findall(r"(no: )?`([\w-]+)`", "|".join(row.split("|")[2:])) for row in table]
    assert [name for row in cells for _, name in row] == CELLS
    assert {name for row in cells for no, name in row if no} == set(REFUSED)
