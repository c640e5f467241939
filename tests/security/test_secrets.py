"""Secrets stay where they were: in the config that was written by hand, and in the environment."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO, StringIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import modalities
from modalities.sources.secrets import _MARKS, _SHAPE, redacted
from pipelines.config import Config
from pipelines.progress import Progress
from pipelines.secrets import MASK, hidden, told
from pipelines.store import Store
from tests.pipelines.conftest import blobs

SECRET = "s3cr3t/Value+of=forty%characters0123456789"
SIGNED = "http://me:hunter2@{}/{}?X-Amz-Algorithm=A&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F2026&X-Amz-Signature={}"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("https://me:pass@host/x", "https://***@host/x"),
        ("https://me:p@ss:w@rd@host/x", "https://***@host/x"),
        ("https://token@host/x", "https://***@host/x"),
        ("simplecache::sftp://me:pass@host:22/x", "simplecache::sftp://***@host:22/x"),
        ("cannot open 'ftp://me:pass@host/x'.", "cannot open 'ftp://***@host/x'."),
        ("https://h/x?token=abc&page=2", "https://h/x?token=***&page=2"),
        ("https://h/x?page=2&X-Amz-Signature=abc", "https://h/x?page=2&X-Amz-Signature=***"),
        ("https://h/x?X-Goog-Credential=abc#3", "https://h/x?X-Goog-Credential=***#3"),
        ("https://h/x?sv=1&sig=ab%2Fc#3", "https://h/x?sv=1&sig=***#3"),
        ("https://h/x?AWSAccessKeyId=abc&Signature=abc", "https://h/x?AWSAccessKeyId=***&Signature=***"),
        ("https://h/x?access_token=abc; retry", "https://h/x?access_token=***; retry"),
        ("key id AKIAIOSFODNN7EXAMPLE.", "key id ***."),
        ("Authorization: Bearer abcdefgh1234", "Authorization: Bearer ***"),
    ],
)
def test_what_a_uri_hides(text, safe):
    assert redacted(text) == safe
    assert redacted(safe) == safe


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a@b/c.parquet",
        "s3://bucket/key=2026/tokens=3/part.parquet",
        "abfs://container@account.dfs.core.windows.net/x",
        "github://org:repo@main/x",
        "/data/me:you@here/x.png",
        "photos/***/x.png",
        "mail me@example.org",
        "https://host/x?page=2&size=3",
        "hf://datasets/me/it@main/x.parquet",
    ],
)
def test_what_hides_nothing_is_left(text):
    assert redacted(text) == text


@given(st.from_regex(_SHAPE))
def test_a_name_that_is_not_searched_has_no_such_shape(text):
    assert any(mark in text for mark in _MARKS)


@given(st.text(st.sampled_from("ab:/@?&=# %.*'\"\\")), st.text())
def test_hiding_twice_is_hiding_once(uri, text):
    for one in (f"https://{uri}", text, f"x?token={uri}"):
        assert redacted(redacted(one)) == redacted(one)


SECRET_NAMES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "RAY_AUTH_TOKEN")
SECRET_NAMES += ("HF_TOKEN", "DB_PASSWORD", "OPENAI_API_KEY")
PLAIN = {
    "AWS_REGION": "eu-central-1",
    "RAY_AUTH_MODE": "token",
    "TOKENIZERS_PARALLELISM": "false",
    "AWS_SHARED_CREDENTIALS_FILE": "/home/me/.aws/credentials",
}


def test_values_of_the_environment(monkeypatch):
    for name in SECRET_NAMES:
        monkeypatch.setenv(name, f"{name}={SECRET}")
        assert SECRET not in hidden(f"botocore said: {name}={SECRET}.")
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert hidden({SECRET: [SECRET, 1, None, (f"a {SECRET}",)]}) == {MASK: [MASK, 1, None, (f"a {MASK}",)]}
    assert "Value" not in hidden("https://h/?x=s3cr3t%2FValue%2Bof%3Dforty%25characters0123456789")
    for name, value in PLAIN.items():
        monkeypatch.setenv(name, value)
        assert hidden(value) == value


def test_a_config_is_hidden_as_a_whole():
    config = Config.model_validate(
        {"source": {"path": ["https://me:pass@h/x", "b"]}, "output": "s3://b/x?token=a"}
    )
    safe = hidden(config)
    assert safe.source.path == ["https://***@h/x", "b"]
    assert safe.output == "s3://b/x?token=***"
    assert config.source.path == ["https://me:pass@h/x", "b"]
    assert hidden(Config()) == Config()


def test_what_is_said_is_hidden_on_the_screen_and_in_the_log(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    screen = StringIO()
    progress = Progress(Store(str(tmp_path)), Console(file=screen))
    progress.say(f"reads https://me:pass@h/x with {SECRET}", reason=f"https://h/x?token={SECRET}")
    progress.start("embed", 3, "samples")
    progress.advance(3, "\x1b[2J https://me:pass@h/x")
    progress.finish()
    for text in (screen.getvalue(), (tmp_path / "log.jsonl").read_text()):
        assert "***@h" in text
        assert "pass" not in text
        assert SECRET not in text
        assert "\x1b" not in text
    assert told("a\x1b]0;b\x07\u202ec\td\ne") == "a\\x1b]0;b\\x07\\u202ec\td\ne"


class Files(BaseHTTPRequestHandler):
    """Serves files in memory to who is signed in, and parts of them."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        data = self.server.files.get(self.path.partition("?")[0])
        if data is None or "X-Amz-Signature=" not in self.path or "Authorization" not in self.headers:
            self.send_error(404 if data is None else 403)
            return
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1 if last else None]
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.end_headers()
        if body:
            self.wfile.write(part)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    array, table = BytesIO(), BytesIO()
    np.save(array, blobs(120))
    pq.write_table(pa.table({"text": ["one", "two"]}), table)

    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as served:
        served.files = {"/pool.npy": array.getvalue(), "/pool.parquet": table.getvalue()}
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{served.server_address[1]}"
        served.shutdown()


def texts_of(folder):
    """Every file of a run, Parquet unpacked."""
    for path in folder.rglob("*"):
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            texts = [
                str(table.select([c]).to_pylist()) for c in table.column_names if c not in ("embedding",)
            ]
            yield path, "\n".join(texts) + str(table.schema)
        elif path.is_file():
            yield path, path.read_bytes().decode("latin-1")


SECRETS = ("hunter2", "AKIAIOSFODNN7EXAMPLE", "0123abcd", "4567efgh", SECRET)


def assert_no_secret(text, where=""):
    found = [secret for secret in SECRETS if secret in text]
    assert not found, f"{where}: {found}: {text[:2000]}"


def test_a_pool_behind_a_signed_uri(evenset, write_config, server, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    shape = {"source": {"format": "embeddings"}, "cluster": {"n_clusters": [6]}, "sample": {"size": 20}}
    config = write_config(SIGNED.format(server, "pool.npy", "0123abcd"), **shape)
    first = evenset("run", config)
    assert first.code == 0, first
    assert_no_secret(first.text)
    files = dict(texts_of(tmp_path / "run"))
    assert {"config.yaml", "_manifest.json", "report.html", "metrics.json", "log.jsonl"} <= {
        p.name for p in files
    }
    for path, text in files.items():
        assert_no_secret(text, path)
    assert f"http://***@{server}/pool.npy?" in (tmp_path / "run/config.yaml").read_text()

    # signed anew, the uri is the same pool: everything is kept
    again = write_config(SIGNED.format(server, "pool.npy", "4567efgh"), **shape)
    second = evenset("run", again)
    assert second.code == 0, second
    assert second.text.count("kept, nothing changed") == 5
    assert_no_secret(second.text)

    # another pool is not, and is named without its secrets
    other = write_config(SIGNED.format(server, "other.npy", "0123abcd"), **shape)
    third = evenset("run", other)
    assert third.code == 2
    assert "another pool" in third.text
    assert_no_secret(third.text)

    # what was saved cannot be run as it is, and says so
    fourth = evenset("run", tmp_path / "run/config.yaml")
    assert fourth.code == 2
    assert "without its secrets" in fourth.text
    assert_no_secret(evenset("status", tmp_path / "run").text)


@pytest.mark.slow
@pytest.mark.parametrize("flag", [["--debug"], []])
def test_errors_and_tracebacks_name_no_secret(write_config, server, tmp_path, flag):
    environment = {**os.environ, "AWS_SECRET_ACCESS_KEY": SECRET}
    for path, extra in (
        (SIGNED.format(server, "gone.npy", "0123abcd"), []),
        (SIGNED.format("127.0.0.1:1", "pool.npy", "0123abcd"), []),
        (SIGNED.format(server, "pool.npy", "0123abcd"), [f"sample.size={SECRET}"]),
        (SIGNED.format(server, "pool.npy", "0123abcd"), [f"output=nothing://me:hunter2@{SECRET}/x"]),
        (SIGNED.format(server, "pool.npy", "0123abcd"), ["ray.address=http://me:hunter2@127.0.0.1:1"]),
    ):
        config = write_config(path, source={"format": "embeddings"})
        command = [sys.executable, "-m", "pipelines", *flag, "run", str(config), *extra]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        assert done.returncode
        said = done.stdout + done.stderr
        assert said
        assert ("Traceback" in said) == bool(flag)
        assert_no_secret(said, extra)


def test_ids_and_uris_are_the_same_however_a_uri_is_signed(server):
    found = []
    for signature in ("0123abcd", "4567efgh"):
        uri = SIGNED.format(server, "pool.parquet", signature)
        pool = modalities.source("parquet", uri, modality=modalities.modality("text"))
        records = [record for part in pool.parts() for record in pool.read(part)]
        assert [record.payload for record in records] == [b"one", b"two"]
        found.append([(record.id, record.uri) for record in records])
    assert found[0] == found[1]
    assert_no_secret(json.dumps(found))


def test_a_store_shows_no_secret():
    assert repr(Store("s3://me:hunter2@bucket/run")) == "Store('s3://***@bucket/run')"
