"""Free ports of this machine."""

from __future__ import annotations

import random
import socket

PORTS = range(12_000, 32_000)
"""Below those that Linux gives to connections, which would take a port between the choice of it and its use."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:  # somebody does
                continue
        return port
