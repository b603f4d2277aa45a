"""Refused requests: a delay for many wrong keys from one network, and a limited number of log lines."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address

import trio

from exotrio._util.words import one_line

logger = logging.getLogger("exotrio.manager.security")

TRIES = 10
"""Different wrong keys from one network that are refused without a delay."""
FORGOTTEN_AFTER = 10.0
"""Seconds after which one of them is forgotten."""
MAX_NETWORKS = 10_000
MAX_DELAY = 5.0
"""Seconds by which a refusal is delayed."""
AGAIN_AFTER = 60.0
"""Seconds between two lines about the same key from the same network."""
MAX_LINES = 100
"""Lines within so many seconds, from all networks."""
MAX_TEXT = 200


@dataclass(slots=True)
class _Failures:
    """Wrong keys from one network: when all of them are forgotten, and hashes of the first of them."""

    until: float
    hashes: list[int] = field(default_factory=list)


class WrongKeys:
    """Counts the wrong keys that one process gets, and delays their refusals.

    The right key is accepted at once, also from an address that sent many wrong ones. Only different keys
    count, so that a runtime that repeats an old key is refused without a delay.
    """

    def __init__(self) -> None:
        # By network, in the order of their last wrong keys.
        self._failures: dict[str, _Failures] = {}

    async def delay_refusal(self, address: str, key: str) -> float:
        """Count a wrong key and wait if many came from its network; return the seconds waited."""
        network, now = network_of(address), trio.current_time()
        failures = self._failures.pop(network, None)
        if failures is None or failures.until <= now:
            failures = _Failures(until=now)
        # Hashes with a salt of this process: a wrong key may be the right key of another service.
        if (hashed := hash(key)) not in failures.hashes:
            failures.until = min(failures.until + FORGOTTEN_AFTER, now + (TRIES + 1) * FORGOTTEN_AFTER)
            failures.hashes = [*failures.hashes, hashed][:TRIES]
        while len(self._failures) >= MAX_NETWORKS:
            del self._failures[next(iter(self._failures))]
        self._failures[network] = failures
        delay = max(0.0, min(MAX_DELAY, failures.until - now - TRIES * FORGOTTEN_AFTER))
        if delay:
            await trio.sleep(delay)
        return delay


def network_of(address: str) -> str:
    """Return what an address is counted as: one subscriber has 2**64 addresses of IPv6."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or IPv6Address(int(parsed) >> 64 << 64))
    return address


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
