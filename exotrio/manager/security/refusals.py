"""Lines in the log about requests that were refused: for their key, or for what that may do."""

from __future__ import annotations

import logging
import math

import trio

from exotrio._util.words import one_line
from exotrio.manager.security.wrong_keys import MAX_NETWORKS, network_of

logger = logging.getLogger("exotrio.manager.security")

AGAIN_AFTER = 60.0
"""Seconds between two lines about the same key from the same network."""
MAX_LINES = 100
"""Lines within so many seconds, from all networks."""
MAX_TEXT = 200


class Refusals:
    """Logs refused requests, in a limited number of lines however many there are. Never the text of a key."""

    def __init__(self) -> None:
        # By key and network, the latest last: when the last line was, and how many had none since.
        self._logged: dict[tuple[str, str], tuple[float, int]] = {}
        self._began, self._lines = -math.inf, 0

    def log(self, key: str, address: str, method: str, path: str) -> None:
        """Log a refused request.

        Args:
            key: Which key it had: a name, or words for a wrong one.
            address: Where it came from.
            method, path: What was requested.
        """
        source, now = (key, network_of(address)), trio.current_time()
        logged_at, left_out = self._logged.pop(source, (-math.inf, 0))
        if now - self._began >= AGAIN_AFTER:
            self._began, self._lines = now, 0
        is_logged = now - logged_at >= AGAIN_AFTER and self._lines < MAX_LINES
        while len(self._logged) >= MAX_NETWORKS:
            del self._logged[next(iter(self._logged))]
        self._logged[source] = (now, 0) if is_logged else (logged_at, left_out + 1)
        if not is_logged:
            return
        self._lines += 1
        before = f"; {left_out:,} more since the last such line" if left_out else ""
        request = one_line(f"{method} {path}")[:MAX_TEXT]
        logger.warning("refused: %s from %s: %s%s", key, address or "an unknown address", request, before)
