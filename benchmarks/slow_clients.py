"""Whether good clients of ``clipstill serve`` are answered while others send or read slowly.

    python benchmarks/slow_clients.py BUNDLE --photo PHOTO... [--slow 64 500 2000] [--seconds 10] [--open-files 1024]

For each row the service starts on a free port, ``--slow`` connections of one kind are opened, and then four good
clients send photos, one after the other, on connections that they open again where they were closed. The kinds:

* body: the head of ``POST /predict``, then one byte of the body a second;
* head: a head that never ends, one byte a second;
* reader: ``GET /model.onnx``, of which one byte a second is read.

Slow connections that the service ends are opened again within a second. ``failed`` counts the requests of good clients
that had no answer within ten seconds, or another one than 200. Memory and descriptors are the service's highest (the
memory of all its life), CPU is the service's time for each answered request. Client and service share the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from serving import Service

GOOD = 4
FIRST = {
    "body": b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: 1000000\r\n\r\n",
    "head": b"POST /predict HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    "reader": b"GET /model.onnx HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


class SlowConnection:
    """One connection, which is opened again where it was ended."""

    def __init__(self, port: int, kind: str) -> None:
        self._port, self._kind = port, kind
        self._open()

    def _open(self) -> None:
        self._socket = socket.socket()
        if self._kind == "reader":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.setblocking(False)
        with contextlib.suppress(OSError):
            self._socket.connect_ex(("127.0.0.1", self._port))
        self._rest = FIRST[self._kind]

    def second(self) -> None:
        """What it does once a second."""
        try:
            if self._rest:
                self._rest = self._rest[self._socket.send(self._rest) :]
            elif self._kind != "reader":
                self._socket.send(b"x")
            if not self._socket.recv(1):
                raise ConnectionResetError
        except BlockingIOError:
            pass
        except OSError:
            self._socket.close()
            self._open()


def attack(port: int, kind: str, count: int) -> None:
    """Keep slow connections open until the process is killed; say so once all of them were begun."""
    connections: list[SlowConnection] = []
    for number in range(count):
        connections.append(SlowConnection(port, kind))
        if number % 100 == 99:
            time.sleep(0.05)
    for turn in range(10**9):
        start = time.monotonic()
        for each in connections:
            each.second()
        if turn == 1:
            print("open", flush=True)
        time.sleep(max(0.0, 1 + start - time.monotonic()))


def ask(port: int, photos: list[bytes], seconds: float) -> tuple[list[float], int]:
    """Latencies in seconds of the good clients' requests, and how many of them failed."""
    latencies: list[float] = []
    failed = [0] * GOOD
    end = time.perf_counter() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        turn = number
        while (begun := time.perf_counter()) < end:
            try:
                connection.request("POST", "/predict", photos[turn % len(photos)], {"Content-Type": "image/jpeg"})
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    raise http.client.HTTPException(response.status)
                latencies.append(time.perf_counter() - begun)
            except (OSError, http.client.HTTPException):
                failed[number] += 1
                connection.close()
                time.sleep(0.1)
            turn += 1

    clients = [threading.Thread(target=client, args=(number,)) for number in range(GOOD)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    return latencies, sum(failed)


class Watch:
    """Highest memory and descriptors of a process, and its CPU time; for Linux."""

    def __init__(self, process: int) -> None:
        self._proc = Path(f"/proc/{process}")
        self.descriptors = 0
        self._ended = threading.Event()
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while not self._ended.wait(0.1):
            with contextlib.suppress(OSError):
                self.descriptors = max(self.descriptors, len(os.listdir(self._proc / "fd")))  # noqa: PTH208 - quick

    def cpu_seconds(self) -> float:
        ticks = (self._proc / "stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

    def peak_bytes(self) -> int:
        lines = (self._proc / "status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

    def end(self) -> None:
        self._ended.set()


def row(given: argparse.Namespace, photos: list[bytes], kind: str, slow: int) -> str:
    with Service(given.bundle, batch=32, threads=1, queue=64) as service:
        watch = Watch(service.process.pid)
        ask(service.port, photos, 2)
        crowd = None
        if slow:
            verb = [sys.executable, __file__, "--attack", str(service.port), kind, str(slow)]
            crowd = subprocess.Popen(verb, stdout=subprocess.PIPE, text=True)
            assert crowd.stdout is not None
            crowd.stdout.readline()
        before = watch.cpu_seconds()
        latencies, failed = ask(service.port, photos, given.seconds)
        used = watch.cpu_seconds() - before
        if crowd is not None:
            crowd.kill()
            crowd.wait()
        watch.end()
        p99 = f"{1000 * float(np.percentile(latencies, 99)):.0f}" if latencies else "-"
        cpu = f"{1000 * used / len(latencies):.1f}" if latencies else "-"
        return (
            f"| {slow} {kind if slow else ''} | {len(latencies) / given.seconds:.1f} | {p99} | {failed} "
            f"| {watch.peak_bytes() / 1e6:.0f} | {watch.descriptors} | {cpu} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--photo", type=Path, nargs="+", required=True)
    parser.add_argument("--slow", type=int, nargs="*", default=[64, 500, 2000], help="none: the good clients alone")
    parser.add_argument("--kind", nargs="+", choices=list(FIRST), default=list(FIRST))
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--open-files", type=int, default=1024, help="the service's soft limit at its start")
    given = parser.parse_args()
    # The service inherits it; the slow clients raise theirs.
    resource.setrlimit(resource.RLIMIT_NOFILE, (given.open_files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    photos = [photo.read_bytes() for photo in given.photo]
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    print("| slow clients | requests/s | p99 ms | failed | memory MB | descriptors | CPU ms a request |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for kind, slow in [("", 0), *((kind, slow) for kind in given.kind for slow in given.slow)]:
        print(row(given, photos, kind, slow), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--attack"]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        attack(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        main()
