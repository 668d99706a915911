"""A real Triton server on loopback: the binary of NVIDIA's nvidia-pytriton, which the Makefile unpacks into
.venv/triton, with its Python backend alone. Other backends are missing there, and the server says so."""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PLACE = Path(sys.prefix) / "triton"
needs_server = pytest.mark.skipif(
    not (PLACE / "numpy1").is_dir(), reason="needs the server that make test installs: Linux x86-64 with glibc 2.35"
)
_START_S, _STOP_S = 120, 30


@dataclass(frozen=True)
class Server:
    """A server that answers: its ports and the file of its log."""

    http: str
    grpc: str
    log: Path


def command(repository: Path, work: Path, *more: str) -> tuple[list[str], dict[str, str]]:
    """The command line of a server and its environment; its Python backend gets the stub of this Python."""
    home, backends = PLACE / "pytriton" / "tritonserver", work / "backends"
    shutil.copytree(home / "backends", backends)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy2(home / "python_backend_stubs" / python / "triton_python_backend_stub", backends / "python")
    for file in (home / "bin" / "tritonserver", backends / "python" / "triton_python_backend_stub"):
        file.chmod(0o755)
    libraries = [PLACE / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
    found = [str(home / "bin" / "tritonserver"), f"--model-repository={repository}", f"--backend-directory={backends}"]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "PYTHONPATH": ":".join([str(PLACE / "numpy1"), *(each for each in sys.path if each.endswith("site-packages"))]),
    }
    environment.pop("PYTHONHOME", None)
    return [*found, "--allow-metrics=false", "--log-verbose=0", *more], environment


@contextmanager
def serving(repository: Path, work: Path) -> Iterator[Server]:
    """Serve a repository within the block."""
    http, grpc = free_ports(2)
    ports = (f"--http-port={http}", f"--grpc-port={grpc}", "--http-address=127.0.0.1", "--grpc-address=127.0.0.1")
    words, environment = command(repository, work, *ports)
    log = work / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(words, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        _wait(process, http, log)
        yield Server(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", log)
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=1) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"the server does not answer: {log.read_text(errors='replace')[-4000:]}")


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
