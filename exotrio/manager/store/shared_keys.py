"""The keys for secrets that the state managers on one database have, by their ids.

Each lists its keys in its row of ``managers``, first the one that it encrypts with. All of them have to be
able to decrypt what one of them encrypts, so two rules hold between any two that are alive:

1. Each has the key that the other one encrypts with.
2. Each has the keys of the stored secrets that the other one can read.

A state manager that would break a rule is not started. So a key is exchanged in steps, each done by all of
them before the next: ``old,new``, then ``new,old``, then everything is encrypted with ``new``, then ``new``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exotrio.manager.store.cipher import ID_LENGTH, Cipher, Renewed, encrypt_again
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

SILENT_AFTER_MS = 30_000
"""A state manager that did not update its row for so long counts as lost."""


@dataclass(frozen=True, slots=True)
class KeyConflict:
    """Why a state manager would break a rule, and what to do."""

    what: str
    fix: str


def peers(view: View, now: int) -> dict[str, list[str]]:
    """Return the ids of the keys of each state manager that is alive, the one that it encrypts with first.

    ``now`` is on the clock of leases, ms, here and below.
    """
    rows = view.execute(
        "SELECT id, secret_keys FROM managers WHERE seen_at > ? AND secret_keys <> '' ORDER BY id",
        (now - SILENT_AFTER_MS,),
    )
    return {row["id"]: row["secret_keys"].split() for row in rows}


def key_conflict(view: View, cipher: Cipher, now: int) -> KeyConflict | None:
    """Return why a further state manager with these keys would break a rule; None if it would not."""
    used = {
        row["key"]
        for row in view.execute(f"SELECT DISTINCT substr(value, 1, {ID_LENGTH}) AS key FROM secrets")
    }
    for manager, keys in peers(view, now).items():
        if cipher.newest not in keys:
            return KeyConflict(
                f"state manager {manager} lacks the key {cipher.newest}, which this one would use",
                "first give all of them both keys with the old one in front (old,new), and only then put the"
                " new one in front",
            )
        if keys[0] not in cipher.key_ids:
            return KeyConflict(
                f"it lacks the key {keys[0]}, with which state manager {manager} encrypts",
                "give it that key, too",
            )
        if lacking := used.intersection(keys).difference(cipher.key_ids):
            return KeyConflict(
                f"it lacks the key {min(lacking)} of stored secrets, which state manager {manager} has",
                "give it that key, too, until rotate-secrets has encrypted them with the new one",
            )
    return None


@dataclass(frozen=True, slots=True)
class Rotated:
    """The result of a rotation. Nothing was encrypted if state managers lack the new key (``lacking``).

    ``behind`` are those that have it and still encrypt with another one.
    """

    lacking: Sequence[str]
    behind: Sequence[str]
    report: Renewed


def rotate(tx: Transaction, cipher: Cipher, now: int) -> Rotated:
    """Encrypt with the newest key all secrets that are not, if every running state manager has that key."""
    others = peers(tx, now).items()
    lacking = [manager for manager, keys in others if cipher.newest not in keys]
    behind = [manager for manager, keys in others if keys[0] != cipher.newest]
    return Rotated(lacking, behind, Renewed() if lacking else encrypt_again(tx, cipher))
