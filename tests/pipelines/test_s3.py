"""Source and output on an S3: the rows of a local run, whatever the store does meanwhile.

The store is moto's server, a real S3 API over HTTP, behind a proxy that records and spoils requests
(`tests.faults.s3`). Commands run as a user runs them, in processes of their own, on a Ray of their own.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fsspec
import pytest
import yaml

from modalities.sources.paths import list_files
from pipelines import retries
from pipelines.errors import RunError
from pipelines.manifest import read_manifest
from pipelines.s3 import PART_BYTES, S3
from pipelines.store import Store
from tests.faults import s3
from tests.faults.head import head

from .conftest import Outcome, blobs, rows_of, write_vectors

ROOT = Path(__file__).resolve().parents[2]
ATTEMPTS = 6
IMPATIENT = {"config_kwargs": {"read_timeout": 2, "retries": {"total_max_attempts": ATTEMPTS}}}
"""Of fsspec's own configuration: the answers come from this machine, and a test cannot wait for minutes."""

FILES = {"modality": "image", "encoder": {"model": "patches"}, "cluster": {"n_clusters": [20, 5]}}
SMALL = {"sample": {"size": 40}, "export": {"formats": ["parquet", "ids"]}, "seed": 3}


@pytest.fixture(scope="module")
def proxy():
    with s3.moto() as port:
        proxy = s3.Proxy(port)
        yield proxy
        proxy.close()


@pytest.fixture(scope="module")
def environment(proxy):
    """What a process needs to find the store; its own Ray hands it on to workers."""
    return {
        **s3.KEYS,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
        "NO_PROXY": "127.0.0.1",
        "FSSPEC_S3": json.dumps(IMPATIENT),
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="module")
def joining(environment):
    """What a process needs to find the store and a Ray whose workers find it too."""
    with head(environment) as joining:
        yield joining


@pytest.fixture
def bucket(proxy, environment, monkeypatch):
    """A fresh bucket; this process reaches it as well."""
    proxy.reset()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "s3", dict(IMPATIENT))
    S3.clear_instance_cache()
    name = f"bucket-{time.monotonic_ns()}"
    s3.client(proxy.upstream).create_bucket(Bucket=name)
    yield name
    proxy.reset()
    S3.clear_instance_cache()


@pytest.fixture
def pictures(tmp_path, digits):
    """300 real images on disk, in two folders."""
    return in_two_folders(tmp_path / "pool", digits)


@pytest.fixture
def some_pictures(tmp_path, digits):
    """120 of them."""
    return in_two_folders(tmp_path / "pool", digits[:120])


def in_two_folders(folder, payloads):
    for i, payload in enumerate(payloads):
        file = folder / f"{i % 2}" / f"{i:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(payload)
    return folder


@pytest.fixture
def few(tmp_path):
    """4 files of 50 embeddings each."""
    return embeddings(tmp_path / "pool", 4)


@pytest.fixture
def many(tmp_path):
    """Rows for which 90,000 bytes of memory are too little."""
    return embeddings(tmp_path / "pool", 24)


@pytest.fixture
def vectors(tmp_path):
    """12 files of 50 embeddings each, so 12 parts."""
    return embeddings(tmp_path / "pool", 12)


def embeddings(folder, files):
    folder.mkdir()
    points = blobs(50 * files)
    for i in range(files):
        write_vectors(folder / f"{i:02d}.parquet", points[50 * i :][:50], [f"{i}-{j}" for j in range(50)])
    return folder


EMBEDDED = {"source": {"format": "embeddings"}, "cluster": {"n_clusters": [20, 5], "shards": 2}}


def upload(port, bucket, folder, prefix="pool"):
    client = s3.client(port)
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            name = f"{prefix}/{file.relative_to(folder).as_posix()}"
            client.put_object(Bucket=bucket, Key=name, Body=file.read_bytes())


@pytest.fixture
def write(tmp_path):
    def write(name, pool, output, **sections):
        source = {"path": str(pool), **sections.pop("source", {})}
        cluster = {"resample": {"steps": 1}, **sections.pop("cluster", {})}
        file = tmp_path / f"{name}.yaml"
        tree = {"source": source, "output": str(output), "cluster": cluster, **SMALL, **sections}
        file.write_text(yaml.safe_dump(tree))
        return str(file)

    return write


@pytest.fixture
def command(joining):
    """Start ``evenset`` in a process of its own."""

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines", *map(str, arguments)],
            env=os.environ | joining,
            cwd=tempfile.gettempdir(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


@pytest.fixture
def there(command):
    """Run ``evenset`` in a process of its own, on the Ray whose workers find the store."""

    def run(*arguments):
        with command(*arguments) as process:
            said, _ = process.communicate(timeout=500)
        return Outcome(process.returncode, said)

    return run


def results(store):
    """All rows of a run without their uris, which name the place."""
    folders = ("embeddings", "tree/level-1/assignments", "curated", "export/parquet")
    found = {folder: rows_of(store, folder) for folder in folders}
    for rows in found.values():
        for row in rows.values():
            row.pop("uri", None)
    level = 1
    while parts := store.list(f"tree/level-{level}/centroids"):
        found[f"centroids {level}"] = [store.read_table(part).to_pylist() for part in parts]
        level += 1
    found["ids"] = store.read_bytes("export/ids.txt")
    return found


LOCAL = {}
"""What runs on a disk gave, by their pool and config, each made once."""


def curated_locally(evenset, write, pool, tmp_path, **sections):
    files = sorted(str(file.relative_to(pool)) for file in pool.rglob("*"))
    key = json.dumps([files, sections], sort_keys=True)
    if key not in LOCAL:
        done = evenset("run", write("local", pool, tmp_path / "local", **sections))
        assert done.code == 0, done
        LOCAL[key] = results(Store(str(tmp_path / "local")))
    return LOCAL[key]


def operations(requests, bucket):
    """Operations on the bucket, of which an object store has few."""
    told = set()
    for request in requests:
        if request.bucket == bucket:
            told.add(
                (request.method, *sorted(request.query & {"uploads", "uploadId", "partNumber", "delete"}))
            )
    return told


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("embeddings", marks=pytest.mark.cluster),
        pytest.param("pictures", marks=[pytest.mark.soak, pytest.mark.timeout(900)]),
    ],
)
def test_a_run_from_s3_to_s3_is_the_run_on_a_disk(
    evenset, there, write, proxy, bucket, tmp_path, request, kind
):
    pool = request.getfixturevalue("few" if kind == "embeddings" else kind)
    sections = EMBEDDED if kind == "embeddings" else FILES
    local = curated_locally(evenset, write, pool, tmp_path, **sections)
    assert len(local["curated"]) == 40
    upload(proxy.upstream, bucket, pool)
    config = write("remote", f"s3://{bucket}/pool", f"s3://{bucket}/runs/a", **sections)
    done = there("run", config)
    assert done.code == 0, done
    run = Store(f"s3://{bucket}/runs/a")
    assert results(run) == local
    assert b"</html>" in run.read_bytes("report.html")
    assert json.loads(run.read_bytes("metrics.json"))["curated"] == 40
    assert not run.exists("unfinished")
    # nothing is renamed or copied, which an object store cannot do in one step, and no bucket is made
    assert not any(asked.copies for asked in proxy.requests)
    assert operations(proxy.requests, bucket) <= {
        ("GET",), ("HEAD",), ("PUT",), ("POST", "delete"), ("POST", "uploads"),
        ("PUT", "partNumber", "uploadId"), ("POST", "uploadId"),
    }  # fmt: skip
    told = there("status", run.url)
    assert told.code == 0
    assert told.text.count(" done ") == 5
    if kind == "pictures":
        again = there("run", config)
        assert again.code == 0
        assert again.text.count(": kept") == 5


def test_a_large_file_goes_up_in_parts_and_is_there_whole_or_not_at_all(proxy, bucket):
    store, data = Store(f"s3://{bucket}/run"), os.urandom(PART_BYTES * 2 + 5)
    store.write_bytes("folder/big.npy", data)
    assert store.read_bytes("folder/big.npy") == data
    parts = [r for r in proxy.requests if r.method == "PUT" and r.key == "run/folder/big.npy"]
    assert len(parts) == 3
    assert all(request.query == {"partNumber", "uploadId"} for request in parts)
    # an upload that fails in the middle: the old file stays, and no reader has seen a piece of the new one
    proxy.fault = lambda r: "busy" if r.method == "PUT" and "partNumber" in r.query else None
    with pytest.raises(RunError, match=f"s3://{bucket}/run/folder/big.npy cannot be reached"):
        store.write_bytes("folder/big.npy", bytes(len(data)))
    proxy.reset()
    assert store.read_bytes("folder/big.npy") == data
    assert store.list("folder", "") == ["folder/big.npy"]
    assert "Uploads" not in s3.client(proxy.upstream).list_multipart_uploads(Bucket=bucket)


def test_a_bucket_is_listed_folder_by_folder(proxy, bucket):
    client = s3.client(proxy.upstream)
    names = ["a-/2.png", "a/1.png", "a/x/3.png", "b.txt", "b/c/d/4.png", "b/c/d/5.jpg"]
    for name in (
        *names,
        ".hidden/x.png",
        "a/.y.png",
        "",
        "a/",
        "empty/",
    ):  # the last as consoles make folders
        client.put_object(Bucket=bucket, Key=f"pool/{name}", Body=name.encode())
    found = list_files(f"s3://{bucket}/pool")
    assert [(file.name, file.size) for file in found.files] == [(name, len(name)) for name in names]
    client.put_object(Bucket=bucket, Key="pool/a/0.png", Body=b"new")
    assert list_files(f"s3://{bucket}/pool/a/").files[0].name == "0.png"
    proxy.reset()
    assert [file.name for file in list_files(f"s3://{bucket}/pool/b/**/*.png").files] == ["c/d/4.png"]
    assert [file.name for file in list_files(f"s3://{bucket}/po*/a*/*.png").files] == [
        "pool/a-/2.png", "pool/a/0.png", "pool/a/1.png",
    ]  # fmt: skip
    fs, path = found.root.filesystem()
    assert not [folder for folder in fs.dircache if folder.startswith(path)]


def test_an_upload_whose_last_answer_is_lost(proxy, bucket):
    store, data = Store(f"s3://{bucket}/run"), os.urandom(PART_BYTES * 2)
    lost = []

    def lose(request):
        if request.method == "POST" and "uploadId" in request.query and not lost:
            lost.append(request)
            return "lose"
        return None

    proxy.fault = lose
    store.write_bytes("big", data)
    assert lost
    assert store.read_bytes("big") == data


def test_answers_that_break_off_are_read_again(proxy, bucket):
    store, data = Store(f"s3://{bucket}/run"), os.urandom(100_000)
    store.write_bytes("a", data)
    before, spoiled = retries._mine, []

    def cut(request):
        if request.method == "GET" and request.key and len(spoiled) < 3:
            spoiled.append(request)
            return "cut"
        return None

    proxy.fault = cut
    assert store.read_bytes("a") == data
    assert len(spoiled) == 3
    assert retries._mine - before == 3


@pytest.mark.parametrize("kind", ["busy", pytest.param("hang", marks=pytest.mark.cluster)])
def test_a_store_that_never_answers_ends_in_a_sentence(there, write, vectors, proxy, bucket, kind):
    upload(proxy.upstream, bucket, vectors)
    proxy.fault = s3.share(0, 1.0, kind)
    done = there("run", write("remote", f"s3://{bucket}/pool", f"s3://{bucket}/run", **EMBEDDED))
    assert done.code == 1, done
    assert len(proxy.requests) == ATTEMPTS  # and each of them is bounded
    assert "Traceback" not in done.text
    assert f"s3://{bucket}" in done.text
    assert "cannot be reached" in done.text
    assert "run the same command again" in done.text


def test_what_another_process_wrote_is_seen_at_once(bucket):
    """No listing is kept: what it did not have yet would not be there for good."""
    store = Store(f"s3://{bucket}/run")
    store.write_bytes("folder/a", b"1")
    assert store.list("folder", "") == ["folder/a"]
    s3.client(int(os.environ["AWS_ENDPOINT_URL"].rsplit(":", 1)[1])).put_object(
        Bucket=bucket, Key="run/folder/b", Body=b"2"
    )
    assert store.exists("folder/b")
    assert store.list("folder", "") == ["folder/a", "folder/b"]


def test_a_bucket_that_is_not_there(there, write, vectors, bucket):
    done = there("run", write("remote", vectors, f"s3://{bucket}-not/run", **EMBEDDED))
    assert done.code == 2, done
    assert f"there is no bucket s3://{bucket}-not" in done.text


def embedding(run):
    return 3 <= len(run.list("embeddings")) < 12


def clustering(run):
    return run.exists("unfinished/checkpoint/header.json") and not run.exists("tree/_manifest.json")


def exporting(run):
    return run.exists("export/_begun.json") and not run.exists("export/_manifest.json")


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_kill_of_the_driver_changes_no_row(
    evenset, there, command, write, vectors, proxy, bucket, tmp_path
):
    sections = {**EMBEDDED, "cluster": {**EMBEDDED["cluster"], "checkpoint": 0.2, "resample": {"steps": 4}}}
    local = curated_locally(evenset, write, vectors, tmp_path, **sections)
    upload(proxy.upstream, bucket, vectors)
    run = Store(f"s3://{bucket}/run")
    config = write("remote", f"s3://{bucket}/pool", run.url, **sections)
    killed = 0
    for moment in (embedding, clustering, exporting):
        with command("run", config) as process:
            while process.poll() is None and not moment(run):
                time.sleep(0.02)
            killed += process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
    assert killed >= 2, "the run was over before it could be killed: make it longer"
    done = there("run", config)
    assert done.code == 0, done
    assert results(run) == local


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "rate", "seed"),
    [
        pytest.param("busy", 0.1, 1, marks=pytest.mark.cluster),
        pytest.param("hang", 0.02, 2, marks=pytest.mark.cluster),
        pytest.param("cut", 0.1, 3, marks=pytest.mark.cluster),
        pytest.param("busy", 0.25, 4, marks=pytest.mark.soak),  # waits for three minutes in all
    ],
)
def test_a_share_of_requests_that_fail_changes_no_row(
    evenset, there, write, some_pictures, proxy, bucket, survived, tmp_path, kind, rate, seed
):
    local = curated_locally(evenset, write, some_pictures, tmp_path, **FILES)
    upload(proxy.upstream, bucket, some_pictures)
    run = Store(f"s3://{bucket}/run")
    proxy.fault = s3.share(seed, rate, kind)
    began = time.monotonic()
    done = there("run", write("remote", f"s3://{bucket}/pool", run.url, **FILES))
    assert done.code == 0, done
    spoiled, seconds = proxy.spoiled, time.monotonic() - began
    proxy.reset()
    assert results(run) == local
    assert spoiled > 10
    counts = [read_manifest(run, folder).counts for folder in ("embeddings", "tree", "curated", "export")]
    counted = sum(count.get("retries", 0) for count in counts)
    assert 0 < counted <= spoiled
    assert "retries" in there("status", run.url).text
    metrics = json.loads(run.read_bytes("metrics.json"))
    assert sum(stage["counts"].get("retries", 0) for stage in metrics["stages"]) == counted
    how = {"busy": "answers 503", "hang": "never answers", "cut": "breaks off"}[kind]
    survived("S3", f"{seed}: {rate:.0%} {how}", "the run asks again, the same rows", seconds)


@pytest.mark.cluster
def test_listings_that_lag_behind_change_no_row(evenset, there, write, vectors, proxy, bucket, tmp_path):
    local = curated_locally(evenset, write, vectors, tmp_path, **EMBEDDED)
    upload(proxy.upstream, bucket, vectors)
    run = Store(f"s3://{bucket}/run")
    proxy.lagging = True
    done = there("run", write("remote", f"s3://{bucket}/pool", run.url, **EMBEDDED))
    assert done.code == 0, done
    proxy.reset()
    assert results(run) == local


@pytest.mark.cluster
def test_a_sample_that_hangs_is_rejected_and_the_run_goes_on(there, write, pictures, proxy, bucket, tmp_path):
    upload(proxy.upstream, bucket, pictures)
    run = Store(f"s3://{bucket}/run")
    proxy.fault = s3.only("pool/1/007.png", "hang")
    config = write("remote", f"s3://{bucket}/pool", run.url, **FILES, limits={"timeout": 2})
    done = there("embed", config)
    assert done.code == 0, done
    assert "1 of 300 samples rejected" in done.text
    rejected = rows_of(run, "rejected/embed")
    assert list(rejected) == ["1/007.png"]
    assert "within 2 seconds (limits.timeout)" in rejected["1/007.png"]["reason"]
    assert len(rows_of(run, "embeddings")) == 299


@pytest.mark.cluster
def test_a_pool_of_samples_that_all_hang_ends_the_run(there, write, pictures, proxy, bucket):
    upload(proxy.upstream, bucket, pictures)
    proxy.fault = lambda request: "hang" if request.key.startswith("pool/") else None
    config = write("remote", f"s3://{bucket}/pool", f"s3://{bucket}/run", **FILES, limits={"timeout": 0.5})
    done = there("embed", config)
    assert done.code == 2, done
    assert "16 files in a row could not be read within limits.timeout=0.5 seconds" in done.text
    assert "run the same command again" in done.text


@pytest.mark.cluster
def test_streamed_rows_lie_on_local_disks_and_are_cleared(
    evenset, there, write, many, proxy, bucket, tmp_path
):
    local = curated_locally(evenset, write, many, tmp_path, **EMBEDDED)
    upload(proxy.upstream, bucket, many)
    run = Store(f"s3://{bucket}/run")
    sections = {**EMBEDDED, "cluster": {**EMBEDDED["cluster"], "memory": 90_000}}
    config = write("remote", f"s3://{bucket}/pool", run.url, **sections)
    scratch = Path(tempfile.gettempdir(), "evenset")
    before = set(scratch.glob("*"))
    done = there("run", config)
    assert done.code == 0, done
    assert set(scratch.glob("*")) <= before
    assert not any("scratch" in request.key for request in proxy.requests)
    assert results(run) == local
