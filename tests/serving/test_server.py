"""The service as its own process: ports, signals, slow clients."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import clipstill
from clipstill.cli.main import main
from clipstill.core.files import commit_manifest, read_manifest
from tests.serving.test_app import png

SOURCE = str(Path(clipstill.__file__).parents[1])


class Service:
    """``clipstill serve`` in a process of its own, on a free port."""

    def __init__(self, folder: Path, *options: str, files: int = 1024) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "clipstill", "serve", str(folder), "--port", "0", *options],
            env={**os.environ, "PYTHONPATH": SOURCE}, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
        )  # fmt: skip
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert found is not None, line
        self.port = int(found[1])

    def predict(self, body: bytes) -> dict[str, object]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/predict", body, {"Content-Type": "image/png"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return dict(json.load(response))

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


LARGE = 8_000_000


@pytest.fixture(scope="module")
def folder(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a file that fits into no buffer on the way to a client."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("run") / "bundle"))
    (folder / "large.bin").write_bytes(bytes(LARGE))
    manifest = read_manifest(folder)
    assert manifest is not None
    commit_manifest(folder, "", [*manifest.files, "large.bin"])
    return folder


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    started = Service(folder, "--timeout", "1")
    yield started
    if started.process.poll() is None:
        started.process.kill()
        started.process.wait()


def closed_within(connection: socket.socket, seconds: float) -> bool:
    """Whether the other side ends a connection on which nothing more is sent; its answer is read and dropped."""
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            if not connection.recv(65536):
                return True
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return False


def test_service_answers_without_torch(service: Service) -> None:
    assert service.predict(png())["label"]
    maps = Path(f"/proc/{service.process.pid}/maps")
    if maps.exists():
        assert "libtorch" not in maps.read_text()


def test_request_that_is_no_http_ends_the_connection_alone(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        assert b"400" in connection.recv(1000)
    assert service.predict(png())["label"]


PNG = png()
CHUNKS = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (PNG[:7], PNG[7:])) + b"0\r\n\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(PNG)
# Version, headers and body of a request; its status.
REQUESTS: dict[str, tuple[tuple[bytes, bytes, bytes], int]] = {
    "HTTP of 1996": ((b"1.0", LENGTH, PNG), 200),
    "HTTP of 1996 without a length": ((b"1.0", b"", PNG), 400),
    "chunks": ((b"1.1", b"Transfer-Encoding: chunked\r\n", CHUNKS), 200),
    "chunks of no size": ((b"1.1", b"Transfer-Encoding: chunked\r\n", b"zz\r\n"), 400),
    "chunks of less than nothing": ((b"1.1", b"Transfer-Encoding: chunked\r\n", b"-5\r\n"), 400),
    "packed chunks": ((b"1.1", b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS), 400),
    "a client that asks first": ((b"1.1", LENGTH + b"Expect: 100-continue\r\n", PNG), 100),
    "a client that expects more": ((b"1.1", LENGTH + b"Expect: 200-ok\r\n", PNG), 200),
    "two lengths": ((b"1.1", LENGTH + b"Content-Length: 5\r\n", PNG), 400),
    "a length of less than nothing": ((b"1.1", b"Content-Length: -5\r\n", PNG), 400),
    "a length with a plus": ((b"1.1", LENGTH.replace(b": ", b": +"), PNG), 400),
    "a length of 6,000 digits": ((b"1.1", b"Content-Length: " + b"9" * 6000 + b"\r\n", PNG), 400),
    "10,000 headers": ((b"1.1", LENGTH + b"X: y\r\n" * 10_000, PNG), 200),
    "a header with a null byte": ((b"1.1", LENGTH + b"X: a\0b\r\n", PNG), 400),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_in_bytes(name: str, service: Service) -> None:
    (version, headers, body), status = REQUESTS[name]
    head = b"POST /predict HTTP/" + version + b"\r\nHost: localhost\r\nContent-Type: image/png\r\n" + headers + b"\r\n"
    with service.connect() as connection:
        connection.sendall(head + body)
        assert connection.recv(1000).startswith(b"HTTP/1.1 %d " % status)
    assert service.predict(PNG)["label"]


def test_client_that_never_ends_its_head_is_dropped(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\n")
        assert closed_within(connection, 10)
    assert service.predict(png())["label"]


def test_client_that_never_ends_its_body_is_told_and_dropped(service: Service) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\nabc"
    with service.connect() as connection:
        connection.sendall(head)
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert closed_within(connection, 15)
    assert service.predict(png())["label"]


def test_client_that_does_not_read_is_dropped_and_a_steady_one_gets_all(service: Service) -> None:
    with service.connect() as stuck, service.connect() as steady:
        for each in (stuck, steady):
            each.sendall(b"GET /large.bin HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        sizes = []
        for client, pause in ((steady, 0.03), (stuck, 0.0)):
            size = 0
            with contextlib.suppress(ConnectionError):
                while piece := client.recv(100_000):
                    size += len(piece)
                    time.sleep(pause)
            sizes.append(size)
    assert sizes[0] > LARGE > sizes[1]


SLOW = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n"


def test_slow_bodies_take_no_place_of_photos_and_no_more_connections_than_files(folder: Path) -> None:
    service = Service(folder, "--queue", "1", files=256)
    slow = []
    for number in range(300):
        slow.append(service.connect())
        slow[-1].sendall(SLOW + b"abc" if number % 2 else SLOW[:50])
        if number % 60 == 59:
            assert service.predict(png())["label"]
    for each in slow:
        each.close()
    service.process.terminate()
    _, err = service.process.communicate(timeout=30)
    assert "Too many open files" not in err
    assert "Traceback" not in err
    assert err.count("/predict 200 ") == 5


def test_client_that_leaves_harms_nobody(service: Service) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
    for body in (png()[:50], png()):
        with service.connect() as connection:
            connection.sendall(head % len(png()) + body)
    assert service.predict(png())["label"]


def test_port_in_use_is_one_line(service: Service, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tiny_bundle), "--port", str(service.port)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: cannot listen on port {service.port} of 127.0.0.1: Address already in use.")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_what_was_begun_end(tiny_bundle: Path, number: signal.Signals) -> None:
    service = Service(tiny_bundle)
    body = png()
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
    with service.connect() as connection:
        connection.sendall(head % len(body) + body[:10])
        time.sleep(0.5)
        service.process.send_signal(number)
        time.sleep(0.5)
        connection.sendall(body[10:])
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
    out, err = service.process.communicate(timeout=30)
    assert service.process.returncode == 0
    assert out == ""
    assert err.splitlines()[-1] == "stopped"
    assert "Traceback" not in err
