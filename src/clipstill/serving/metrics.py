"""What is counted for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server. Labels are of fixed sets, so that no client can make new series."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "clipstill_requests", "Requests by endpoint and status.", ("endpoint", "status"), registry=self._registry
        )
        self.seconds = Histogram(
            "clipstill_request_seconds",
            "From the head of a request to the end of its answer.",
            ("endpoint",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.batches = Histogram("clipstill_batch_photos", "Photos a batch.", buckets=_SIZES, registry=self._registry)
        self.photos = Counter("clipstill_photos", "Photos answered.", registry=self._registry)
        self.refusals = Counter(
            "clipstill_refusals", "Photos answered by none of these classes.", registry=self._registry
        )

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)
