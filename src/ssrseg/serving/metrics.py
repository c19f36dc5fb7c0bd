"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counts of one server.

    Attributes:
        requests: Requests for a mask that were answered with it, by form.
        errors: Those that were not, by kind.
        seconds: From the first byte of a request to its answer, of those that got their mask.
        batches: Photographs that the model has seen at once.
        model_seconds: What it took for them.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        """Begin at zero; ``waiting`` tells how many photographs wait for the model."""
        self._registry = here = CollectorRegistry()
        self.requests = Counter(
            "ssrseg_requests", "Images that got their mask.", ["form"], registry=here
        )
        self.errors = Counter(
            "ssrseg_errors", "Requests that got none, by what was wrong.", ["kind"], registry=here
        )
        self.seconds = Histogram(
            "ssrseg_request_seconds",
            "From the first byte of a request to its mask.",
            registry=here,
            buckets=_SECONDS,
        )
        self.batches = Histogram(
            "ssrseg_batch_size",
            "Photographs that the model has seen at once.",
            registry=here,
            buckets=_SIZES,
        )
        self.model_seconds = Histogram(
            "ssrseg_model_seconds",
            "Of the model, for the photographs that it sees at once.",
            registry=here,
            buckets=_SECONDS,
        )
        queue = Gauge("ssrseg_queue_length", "Photographs that wait for the model.", registry=here)
        queue.set_function(lambda: float(waiting()))

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)
