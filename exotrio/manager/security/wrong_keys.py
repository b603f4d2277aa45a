"""Wrong keys: counted by the network they came from, and refused with a delay if there are many.

They are counted in the database, so that all state managers on it count together. It has only digests of
them, made with the right key: a wrong key may be the right one of another service.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv6Address, ip_address

import trio
from pydantic_core import from_json, to_json

from exotrio._wire.vocabulary import from_ms
from exotrio.errors import DatabaseError
from exotrio.manager.engine.workers import MAX_TRIMMED, trim
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import Store
from exotrio.manager.store.transaction import RowChanged, Transaction

TRIES = 10
"""Different wrong keys from one network that are refused without a delay."""
FORGOTTEN_AFTER_MS = 10_000
"""After this one of them is forgotten."""
MAX_NETWORKS = 10_000
MAX_DELAY = 5.0
"""Seconds by which a refusal is delayed."""


@dataclass(frozen=True, slots=True)
class _Failures:
    """Wrong keys from one network: when all of them are forgotten, on Trio's clock, and the first of them."""

    until: float
    keys: Collection[str]

    @property
    def delay(self) -> float:
        """Seconds by which to delay a refusal now; negative if there are few."""
        return min(MAX_DELAY, self.until - from_ms(TRIES * FORGOTTEN_AFTER_MS) - trio.current_time())


class WrongKeys:
    """Counts wrong keys and delays their refusals.

    The right key is accepted at once, also from an address that sent many wrong ones. Only different keys
    count, so that a runtime that repeats an old key is refused without a delay.
    """

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._digest_key = sha256(b"wrong keys" + key.encode("utf-8", "surrogatepass")).digest()
        # What is counted in the database, as this state manager read it last.
        self._failures: dict[str, _Failures] = {}
        self._counting = trio.Lock()

    async def delay_refusal(self, address: str, key: str) -> float:
        """Count a wrong key and wait if many came from its network; return the seconds waited."""
        network = _network(address)
        digest = hmac.digest(self._digest_key, key.encode("utf-8", "replace"), "sha256").hex()
        failures = self._counted(network, digest)
        if failures is None:
            # One after the other: unauthenticated clients must not be able to keep the database busy.
            async with self._counting:
                # Another request may have counted the same key while this one waited for the lock.
                failures = self._counted(network, digest) or await self._count(network, digest)
        delay = max(0.0, failures.delay)
        if delay > 0:
            await trio.sleep(delay)
        return delay

    def _counted(self, network: str, digest: str) -> _Failures | None:
        """Return the wrong keys of a network if this one, or enough others, were counted already."""
        failures = self._failures.get(network)
        if failures is None or failures.until <= trio.current_time():
            return None
        return failures if digest in failures.keys or failures.delay >= MAX_DELAY else None

    async def _count(self, network: str, digest: str) -> _Failures:
        try:
            left_ms, keys = await self._store.write(count_wrong_key, network, digest)
        except DatabaseError:
            # Nothing can be counted, so every client is treated as one that guesses.
            return _Failures(math.inf, ())
        failures = _Failures(trio.current_time() + from_ms(left_ms), keys)
        self._failures.pop(network, None)
        while len(self._failures) >= MAX_NETWORKS:
            del self._failures[next(iter(self._failures))]
        self._failures[network] = failures
        return failures


def _network(address: str) -> str:
    """Return what an address is counted as: one subscriber has 2**64 addresses of IPv6."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or IPv6Address(int(parsed) >> 64 << 64))
    return address


def count_wrong_key(tx: Transaction, network: str, key: str) -> tuple[int, list[str]]:
    """Count a wrong key from a network; return after how many ms all are forgotten, and the first of them.

    Only different keys count.
    """
    row = _locked_network(tx, network)
    if row is None:
        trim(tx, "wrong_keys", "WHERE until < ? LIMIT ?", (tx.now_ms, MAX_TRIMMED), key="network")
        too_many = "ORDER BY until DESC LIMIT ? OFFSET ?"
        trim(tx, "wrong_keys", too_many, (MAX_TRIMMED, MAX_NETWORKS - 1), key="network")
        columns = ("network", "until", "keys")
        tx.insert("wrong_keys", columns, [(network, tx.now_ms, "[]")], "(network) DO NOTHING")
        row = _locked_network(tx, network)
        if row is None:
            # Another transaction trimmed the row between the insert and the lock.
            raise RowChanged("wrong_keys")
    left: int = max(0, row["until"] - tx.now_ms)
    keys: list[str] = from_json(row["keys"]) if left else []
    if key not in keys:
        left = min(left + FORGOTTEN_AFTER_MS, (TRIES + 1) * FORGOTTEN_AFTER_MS)
        keys = [*keys, key][:TRIES]
        tx.execute(
            "UPDATE wrong_keys SET until = ?, keys = ? WHERE network = ?",
            (tx.now_ms + left, to_json(keys).decode(), network),
        )
    return left, keys


def _locked_network(tx: Transaction, network: str) -> Row | None:
    query = f"SELECT until, keys FROM wrong_keys WHERE network = ?{tx.for_update('wrong_keys')}"
    return tx.row(query, (network,))
