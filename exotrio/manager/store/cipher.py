"""Secrets at rest: AES-256-GCM, bound to the graph and the name they belong to; and sealed texts, which are
given to clients.

There may be several keys, newest first: the first one encrypts, and each decrypts what it encrypted, as
long as it is given. A ciphertext is ``<id of its key>.<base64 of nonce, ciphertext and tag>``.
``security.encryption`` finds the keys and exchanges them.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256

from exotrio._shared.settings import SECRETS_KEY_VARIABLE
from exotrio._util.words import plural
from exotrio.errors import DatabaseError
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

KEY_BYTES = 32
_NONCE_BYTES = 12
ID_LENGTH = 8
"""Characters of the id of a key."""


class SecretUnreadable(DatabaseError):
    """A stored secret cannot be decrypted with the keys that this process has. ``reason`` contains no
    names."""

    def __init__(self, graph: str, name: str, reason: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(
            f"secret {name!r} of graph {graph!r} cannot be decrypted: {reason}", where=where, fix=fix
        )
        self.reason = reason


class Cipher:
    """Encrypts and decrypts the secrets of graphs with keys of 32 bytes each, newest first; at least one.

    ``source`` says in messages where they came from.
    """

    def __init__(self, *keys: bytes, source: str = "this process") -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise ValueError(f"keys have {KEY_BYTES} bytes, not {[len(key) for key in keys]}")
        self._keys = {_key_id(key): key for key in reversed(keys)}
        self.newest: str = _key_id(keys[0])
        self.key_ids: tuple[str, ...] = tuple(dict.fromkeys(map(_key_id, keys)))
        self.source = source

    def encrypt(self, value: str, *, namespace: str, graph: str, name: str) -> str:
        """Return the ciphertext, made with the newest key."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE_BYTES)
        key = self._keys[self.newest]
        sealed = AESGCM(key).encrypt(nonce, value.encode(), _bound_to(namespace, graph, name))
        return f"{self.newest}.{base64.urlsafe_b64encode(nonce + sealed).decode()}"

    def decrypt(self, text: str, *, namespace: str, graph: str, name: str) -> str:
        """Return the plain value; raise SecretUnreadable if it has another key, or is of another secret."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        key_id, _, sealed = text.rpartition(".")
        if key_id not in self._keys:
            raise SecretUnreadable(
                graph,
                name,
                f"it was encrypted with another key, {key_id or 'unknown'}",
                where=f"given are {', '.join(self.key_ids)}, by {self.source}",
                fix=f"give that key too, after the newest, in {SECRETS_KEY_VARIABLE} or the key file next to"
                " the database; or upsert the graph again",
            )
        try:
            raw = base64.b64decode(sealed, altchars=b"-_", validate=True)
            bound_to = _bound_to(namespace, graph, name)
            key = self._keys[key_id]
            return AESGCM(key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], bound_to).decode()
        except (InvalidTag, ValueError) as error:  # ValueError: not base64, or too short
            raise SecretUnreadable(
                graph,
                name,
                "it was changed in the database, or moved there from another secret",
                fix="upsert the graph again",
            ) from error

    def seal(self, value: bytes, *, purpose: str) -> str:
        """Return ``value`` as a text for an address that only these keys can make or read."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE_BYTES)
        key = _key_for(purpose, self._keys[self.newest])
        return base64.urlsafe_b64encode(nonce + AESGCM(key).encrypt(nonce, value, None)).decode().rstrip("=")

    def unseal(self, text: str, *, purpose: str) -> bytes | None:
        """Return what ``seal`` was given for this purpose, with any of these keys; None for any other text.

        The tag is compared in constant time.
        """
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except ValueError:
            return None
        # There are several texts of the same bytes; only one of them is right.
        if len(raw) > _NONCE_BYTES and base64.urlsafe_b64encode(raw).decode().rstrip("=") == text:
            for key in self._keys.values():
                with suppress(InvalidTag):
                    sealing = AESGCM(_key_for(purpose, key))
                    return sealing.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], None)
        return None


def open_secrets(
    view: View, graphs: Collection[int], cipher: Cipher
) -> dict[int, tuple[list[str], list[str]]]:
    """Return for each graph the values of its secrets, and the names of those that cannot be decrypted."""
    opened: dict[int, tuple[list[str], list[str]]] = {graph: ([], []) for graph in graphs}
    if not opened:
        return {}
    for graph, namespace, graph_name, name, text in view.execute(
        "SELECT graph, graphs.namespace, graphs.name, secrets.name, value FROM secrets"
        f" JOIN graphs ON graphs.id = secrets.graph WHERE {view.any_of('graph')}",
        (view.items(sorted(opened)),),
    ):
        values, unreadable = opened[graph]
        try:
            values.append(cipher.decrypt(text, namespace=namespace, graph=graph_name, name=name))
        except SecretUnreadable:
            unreadable.append(name)
    return opened


def _key_id(key: bytes) -> str:
    """Return the name of a key for messages. It reveals nothing of 256 random bits."""
    return sha256(b"exotrio, id of a key for secrets: " + key).hexdigest()[:ID_LENGTH]


def _key_for(purpose: str, key: bytes) -> bytes:
    """Return a key for one purpose, from which the other one does not follow."""
    return hmac.digest(key, b"exotrio, key for " + purpose.encode(), "sha256")


def _bound_to(namespace: str, graph: str, name: str) -> bytes:
    return json.dumps([namespace, graph, name]).encode()


@dataclass(slots=True, kw_only=True)
class Renewed:
    """The result of encrypting all stored secrets with the newest key: how many there are, how many had
    another one, how many graphs those belong to, and for each secret that no key can decrypt, why."""

    total: int = 0
    renewed: int = 0
    graphs: int = 0
    unreadable: list[SecretUnreadable] = field(default_factory=list)

    @property
    def problem(self) -> DatabaseError | None:
        """One error for all unreadable secrets; None if there are none."""
        if len(self.unreadable) < 2:
            return self.unreadable[0] if self.unreadable else None
        first = self.unreadable[0]
        reasons = Counter(error.reason for error in self.unreadable)
        return DatabaseError(
            f"{len(self.unreadable)} of {self.total} secrets cannot be decrypted: "
            + "; ".join(f"{reason} ({count})" for reason, count in sorted(reasons.items())),
            where=next((error.where for error in self.unreadable if error.where), ""),
            fix=next((error.fix for error in self.unreadable if error.where), first.fix),
        )


def check_secrets(view: View, cipher: Cipher) -> Renewed:
    """Return what ``encrypt_again`` would return, and change nothing."""
    return _outdated(view, cipher)[0]


def encrypt_again(tx: Transaction, cipher: Cipher) -> Renewed:
    """Encrypt with the newest key what was encrypted with an older one."""
    # Locked: an upsert may replace a secret meanwhile, and its value must not be overwritten by the older
    # one.
    report, outdated = _outdated(tx, cipher, tx.for_update("secrets"))
    with tx.secure_delete():
        tx.update(
            "secrets",
            ("graph", "name"),
            ("value",),
            [
                (graph, location["name"], cipher.encrypt(plain, **location))
                for graph, location, plain in outdated
            ],
        )
    if outdated:
        tx.record("secrets.rotate", "", "", plural(len(outdated), "secret"))
    return report


def _outdated(
    view: View, cipher: Cipher, lock: str = ""
) -> tuple[Renewed, list[tuple[int, dict[str, str], str]]]:
    """Return a report, and (graph, secret, plain value) of what the newest key did not encrypt.

    ``lock`` is the end of the statement that reads the secrets.
    """
    report, outdated = Renewed(), []
    for row in view.execute(
        "SELECT graph, secrets.name, value, namespace, graphs.name AS graph_name FROM secrets"
        f" JOIN graphs ON graphs.id = secrets.graph ORDER BY graph, secrets.name{lock}"
    ):
        report.total += 1
        if row["value"].startswith(f"{cipher.newest}."):
            continue
        location = {"namespace": row["namespace"], "graph": row["graph_name"], "name": row["name"]}
        try:
            outdated.append((row["graph"], location, cipher.decrypt(row["value"], **location)))
        except SecretUnreadable as error:
            report.unreadable.append(error)
    report.renewed = len(outdated)
    report.graphs = len({graph for graph, _, _ in outdated})
    return report, outdated
