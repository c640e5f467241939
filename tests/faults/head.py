"""A Ray head of its own, for tests whose workers need an environment that the session's Ray has not."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ray.util import get_node_ip_address

RAY = Path(sys.executable).parent / "ray"


@contextmanager
def head(environment, cpus=2, gpus=0):
    """What a process needs to join a fresh `ray start --head`, which ends with the block.

    The GPUs are some that Ray counts, and that nobody has.
    """
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        gcs, client = (listener.getsockname()[1] for listener in listeners)
    folder = tempfile.mkdtemp(prefix="evenset")
    command = [RAY, "start", "--head", "--block", "--disable-usage-stats", "--include-dashboard=false"]
    command += [
        f"--port={gcs}",
        f"--ray-client-server-port={client}",
        f"--num-cpus={cpus}",
        f"--num-gpus={gpus}",
    ]
    command += [f"--temp-dir={folder}", "--object-store-memory=300000000"]
    # Ray joins no head on 127.0.0.1, so it listens to the network: a token keeps others out
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    plain = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    with subprocess.Popen(command, env=plain | environment, **quiet) as process:
        try:
            for _ in range(240):
                try:
                    socket.create_connection((get_node_ip_address(), gcs), timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None, "ray start --head ended"
                    time.sleep(0.25)
            yield environment | {"RAY_ADDRESS": f"{get_node_ip_address()}:{gcs}"}
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # the whole head, and nothing else
            process.wait(timeout=60)
            shutil.rmtree(folder, ignore_errors=True)
