"""What a server takes, and how it puts photographs together."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ssrseg.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server takes at most, and how many photographs it sees at once."""

    batch: int = 1
    """Photographs of one size that are seen at once. With 1, masks are those of `predict` to the
    byte; with more, the last bits of sums may differ."""
    wait_ms: float = 5.0
    """Milliseconds in which others of its size may join a photograph."""
    queue: int = 64
    """Requests that are worked on or wait; others are told to come again."""
    seconds: float = 60.0
    """Time for a request, from its first byte to its answer."""
    megabytes: float = 20.0
    """Of the file of an image (1 MB = 1,000,000 bytes)."""
    megapixels: float = 25.0
    """Of an image (1 megapixel = 1,000,000 pixels)."""

    def __post_init__(self) -> None:
        for name in ("batch", "queue", "seconds", "megabytes", "megapixels"):
            given = getattr(self, name)
            if not 0 < given < math.inf:
                wanted = "more than 0" if not given > 0 else "a finite number"
                raise ConfigError(f"--{name} is {given}: give {wanted}.")
        if not 0 <= self.wait_ms <= 1000 * self.seconds:
            raise ConfigError(
                f"--wait-ms is {self.wait_ms:g}: give 0 to {1000 * self.seconds:g}, the time of a"
                " request (--seconds)."
            )

    @property
    def most_bytes(self) -> int:
        """Of the file of an image."""
        return int(self.megabytes * 1e6)

    @property
    def most_pixels(self) -> int:
        """Of an image."""
        return int(self.megapixels * 1e6)
