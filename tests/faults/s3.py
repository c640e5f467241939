"""An S3 on loopback (moto's server), and a proxy before it that records every request and plays the faults.

The proxy decides by a hash of (seed, number of the request) which requests to spoil, so that a share of them
is spoiled and a named seed says which.
"""

import hashlib
import http.client
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from botocore.config import Config

BUSY = (
    b"<?xml version='1.0'?><Error><Code>ServiceUnavailable</Code><Message>Reduce your rate.</Message></Error>"
)
KEYS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def moto():
    """The port of an S3 of its own, which keeps everything in memory."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(240):
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None, "moto's server ended"
                    time.sleep(0.25)
            yield port
        finally:
            process.terminate()


def client(port):
    """A client of our own, for a test to look into the store past the proxy."""
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )


@dataclass(frozen=True)
class Request:
    """What was asked of the store: ``query`` names the operation where the method does not."""

    method: str
    bucket: str
    key: str
    query: frozenset
    copies: bool
    number: int


def share(seed, rate, kind="busy"):
    """A fault that spoils a share of all requests, as the seed says."""

    def fault(request):
        word = hashlib.blake2b(f"{seed}:{request.number}".encode(), digest_size=8).digest()
        return kind if int.from_bytes(word) < rate * 2**64 else None

    return fault


def only(key, kind):
    """A fault of one object, always."""
    return lambda request: kind if request.key == key and request.method == "GET" else None


class Proxy:
    """Stands before the store at ``upstream``; ``fault(request)`` is None, busy, hang, cut or lose.

    ``lag``: objects written less than two seconds ago are left out of every listing.
    """

    LAG = 2.0

    def __init__(self, upstream):
        self.upstream = upstream
        self.requests, self.spoiled = [], 0
        self.fault = lambda request: None
        self.lagging = False
        self.written = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def reset(self):
        """No faults, and nothing recorded."""
        self.fault, self.lagging = lambda request: None, False
        self.requests, self.spoiled = [], 0
        self._over.set()  # whoever hangs is let go
        self._over = threading.Event()

    def close(self):
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def note(self, method, path, headers):
        url = urllib.parse.urlsplit(path)
        _, bucket, *key = url.path.split("/", 2)
        query = frozenset(urllib.parse.parse_qs(url.query, keep_blank_values=True))
        with self._lock:
            request = Request(
                method,
                bucket,
                urllib.parse.unquote("".join(key)),
                query,
                "x-amz-copy-source" in {name.lower() for name in headers},
                len(self.requests),
            )
            self.requests.append(request)
            spoil = self.fault(request)
            self.spoiled += spoil is not None
            if method in ("PUT", "POST"):
                self.written[request.key] = time.monotonic()
        return request, spoil

    def too_new(self):
        return {key for key, when in self.written.items() if time.monotonic() - when < self.LAG}

    def _handler(proxy):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def _body(self):
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                pieces = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    pieces.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(pieces)

            def _answer(self, status, headers, body):
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in ("connection", "transfer-encoding", "content-length", "date"):
                        self.send_header(name, value)
                length = {n.lower(): v for n, v in headers}.get("content-length")
                self.send_header("Content-Length", length if self.command == "HEAD" and length else len(body))
                self.end_headers()
                self.wfile.write(body)

            def _pass(self):
                body = self._body()
                request, spoil = proxy.note(self.command, self.path, self.headers)
                if spoil == "hang":
                    proxy._over.wait(600)
                    self.close_connection = True
                    return
                if spoil == "busy":
                    self._answer(
                        503, [("Content-Type", "application/xml")], b"" if self.command == "HEAD" else BUSY
                    )
                    return
                store = http.client.HTTPConnection("127.0.0.1", proxy.upstream, timeout=60)
                headers = {n: v for n, v in self.headers.items() if n.lower() != "transfer-encoding"}
                headers["Content-Length"] = str(len(body))
                store.request(self.command, self.path, body, headers)
                answer = store.getresponse()
                content = answer.read()
                if proxy.lagging and "list-type" in request.query:
                    content = _without(content, proxy.too_new())
                if spoil == "lose":  # done, and nobody is told
                    self._answer(503, [("Content-Type", "application/xml")], BUSY)
                elif spoil == "cut" and content:  # the body breaks off in the middle
                    self.send_response(answer.status)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content[: len(content) // 2])
                    self.close_connection = True
                else:
                    self._answer(answer.status, answer.getheaders(), content)
                store.close()

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass

        return Handler


def _without(listing, keys):
    """The XML of a listing without some keys, as a store would answer that has not heard of them yet."""
    head, *entries = listing.split(b"<Contents>")
    kept = []
    tail = b""
    for entry in entries:
        content, end, rest = entry.partition(b"</Contents>")
        key = content.split(b"<Key>")[1].split(b"</Key>")[0].decode()
        if urllib.parse.unquote(key) not in keys:
            kept.append(b"<Contents>" + content + end)
        tail = rest
    if not entries:
        return listing
    return head + b"".join(kept) + tail
