"""Requests a second and latency of ``clipstill serve``, with and without batches.

    python benchmarks/serving.py BUNDLE --photo PHOTO... [--concurrency 1 8 32] [--seconds 10] [--out serving.json]

Starts the service on a free port for each row, asks it as many times at once as the row says, each client one request
after the other on a connection that stays open, and drops the first second. Client and service share the machine, so
the rates are lower bounds. The note below the table is the model alone: photos a second of ``Bundle.logits`` by the
size of the batch, without decoding and HTTP.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from clipstill.core.files import write_json
from clipstill.runtime import load_bundle


class Service:
    """The service in a process of its own."""

    def __init__(self, bundle: Path, batch: int, threads: int, queue: int = 256) -> None:
        verb = [sys.executable, "-m", "clipstill", "serve", str(bundle), "--port", "0", "--queue", str(queue)]
        self.process = subprocess.Popen(
            [*verb, "--batch", str(batch), "--threads", str(threads)], stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        found = re.search(r":(\d+)/", self.process.stderr.readline())
        assert found is not None
        self.port = int(found[1])
        # Its log must be read, or the pipe fills and the service waits.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def ask(self, photos: list[bytes], concurrency: int, seconds: float) -> list[float]:
        """Latencies in seconds of all requests that began after the first second."""
        start = time.perf_counter()
        taken: list[list[float]] = [[] for _ in range(concurrency)]

        def client(number: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            turn = number
            while (begun := time.perf_counter()) < start + 1 + seconds:
                connection.request("POST", "/predict", photos[turn % len(photos)], {"Content-Type": "image/jpeg"})
                response = connection.getresponse()
                response.read()
                assert response.status == 200, response.status
                if begun > start + 1:
                    taken[number].append(time.perf_counter() - begun)
                turn += 1

        clients = [threading.Thread(target=client, args=(number,)) for number in range(concurrency)]
        for each in clients:
            each.start()
        for each in clients:
            each.join()
        return [each for of_client in taken for each in of_client]

    def mean_batch(self) -> float:
        """Photos a batch, as the service counts them."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        count, total = (
            float(re.search(rf"^clipstill_batch_photos_{name} (\S+)$", text, re.M)[1])  # type: ignore[index]
            for name in ("count", "sum")
        )
        return total / count


def model_alone(bundle: Path, threads: int) -> dict[int, float]:
    """Photos a second of the model by the size of its batch."""
    opened = load_bundle(bundle, threads)
    shape, rates = opened.preprocess.shape, {}
    for batch in (1, 8, 32):
        images_NHW3 = np.random.default_rng(0).integers(0, 256, (batch, *shape, 3), dtype=np.uint8)
        opened.logits(images_NHW3)
        start, runs = time.perf_counter(), 0
        while time.perf_counter() - start < 3:
            opened.logits(images_NHW3)
            runs += 1
        rates[batch] = batch * runs / (time.perf_counter() - start)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--photo", type=Path, nargs="+", required=True)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32], help="1 is without batches")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    photos = [photo.read_bytes() for photo in given.photo]
    rows = []
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    print("| batch | clients | requests/s | p50 ms | p95 ms | p99 ms | photos a batch |")
    print("|---|---|---|---|---|---|---|")
    for concurrency in given.concurrency:
        for batch in given.batch:
            with Service(given.bundle, batch, given.threads) as service:
                latency = service.ask(photos, concurrency, given.seconds)
                mean_batch = service.mean_batch()
            p50, p95, p99 = (1000 * float(each) for each in np.percentile(latency, [50, 95, 99]))
            rate = len(latency) / given.seconds
            rows.append(
                {"batch": batch, "clients": concurrency, "rate": rate, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}
                | {"photos_a_batch": mean_batch}
            )
            print(
                f"| {batch} | {concurrency} | {rate:.1f} | {p50:.1f} | {p95:.1f} | {p99:.1f} | {mean_batch:.1f} |",
                flush=True,
            )
    alone = model_alone(given.bundle, given.threads)
    print("model alone, photos/s by batch: " + ", ".join(f"{batch}: {rate:.1f}" for batch, rate in alone.items()))
    if given.out is not None:
        write_json(given.out, {"rows": rows, "model_alone": {str(batch): rate for batch, rate in alone.items()}})


if __name__ == "__main__":
    main()
