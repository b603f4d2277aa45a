"""Exchanging the keys for secrets at rest.

A new key is put in front of the others. What they encrypted is then encrypted anew in one transaction,
when a state manager starts and by ``rotate_secrets``: whole or not at all, whatever happens meanwhile.
At the start, since the process that learns of a new key has to start anyway: no step of its own that
could be forgotten before the old key is taken away. Secrets that no given key can read stay as they are,
and can be read again once theirs is given.

What a backup holds stays encrypted with the keys of its time, so those must be kept as long as it.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import trio

from exotrio._util.settings import SECRETS_KEY_VARIABLE, Settings, read_settings
from exotrio.errors import ConfigurationError, DatabaseError
from exotrio.manager.security.encryption_key import KEY_FILE, cipher_from_text, key_file_of, new_key
from exotrio.manager.security.secret_files import read_secret_file, secret_path, write_secret_file
from exotrio.manager.store.cipher import Cipher, SecretUnreadable
from exotrio.manager.store.port import Store, Transaction, View
from exotrio.manager.store.sqlite.database import truncate_log
from exotrio.manager.store.sqlite.store import open_store

logger = logging.getLogger("exotrio.manager")


@dataclass(slots=True)
class Renewed:
    """What became of all stored secrets.

    Attributes:
        total: How many there are.
        renewed: Those that were encrypted anew.
        graphs: How many graphs have those.
        unreadable: For each secret that no given key can read, why.
    """

    total: int = 0
    renewed: int = 0
    graphs: int = 0
    unreadable: list[SecretUnreadable] = field(default_factory=list)

    @property
    def problem(self) -> DatabaseError | None:
        """What is wrong with the unreadable ones, in one error for all."""
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


@dataclass(frozen=True, slots=True)
class _Outdated:
    """A secret that was not encrypted with the newest key."""

    graph: int
    name: str
    place: dict[str, str]
    plain: str


def check(view: View, cipher: Cipher) -> Renewed:
    """Return what ``encrypt_anew`` would find; nothing is renewed."""
    found = Renewed()
    _outdated(view, cipher, found)
    return found


def encrypt_anew(tx: Transaction, cipher: Cipher) -> Renewed:
    """Encrypt with the newest key what was encrypted with an older one."""
    found = Renewed()
    outdated = _outdated(tx, cipher, found)
    with tx.secure_delete():
        tx.executemany(
            "UPDATE secrets SET value = ? WHERE graph = ? AND name = ?",
            ((cipher.encrypt(one.plain, **one.place), one.graph, one.name) for one in outdated),
        )
    found.renewed = len(outdated)
    found.graphs = len({one.graph for one in outdated})
    return found


def _outdated(view: View, cipher: Cipher, found: Renewed) -> list[_Outdated]:
    outdated = []
    for row in view.execute(
        "SELECT graph, secrets.name, value, namespace, graphs.name AS graph_name FROM secrets"
        " JOIN graphs ON graphs.id = secrets.graph ORDER BY graph, secrets.name"
    ):
        found.total += 1
        if not cipher.is_newest(row["value"]):
            place = {"namespace": row["namespace"], "graph": row["graph_name"], "name": row["name"]}
            try:
                plain = cipher.decrypt(row["value"], **place)
            except SecretUnreadable as error:
                found.unreadable.append(error)
            else:
                outdated.append(_Outdated(row["graph"], row["name"], place, plain))
    return outdated


async def renew_at_start(store: Store, cipher: Cipher) -> None:
    """Encrypt with the newest key what is not, and say in the log what cannot be read.

    That is not refused, since giving the right key mends it, and an upsert. But it is said at the start:
    every node that needs such a secret will be claimed and handed back for ever.
    """
    found = await store.write(encrypt_anew, cipher)
    if found.renewed:
        await _forget_log(store)
        logger.info(
            "%d secrets of %d graphs were encrypted anew with the key %s, the newest in %s; the older keys"
            " are needed only for backups made before now",
            found.renewed,
            found.graphs,
            cipher.newest,
            cipher.source,
        )
    if found.problem:
        logger.error("%s", found.problem)


async def _forget_log(store: Store) -> None:
    # What was replaced still stands in the write-ahead log, for whoever has the old key.
    if store.path is not None:
        await trio.to_thread.run_sync(truncate_log, store.path)


@dataclass(frozen=True, slots=True)
class Rotation:
    """What ``rotate_secrets`` did.

    Attributes:
        total: How many secrets are stored, all of them now encrypted with the newest key.
        renewed: Those that were not before.
        key_id: What the newest key is called.
        source: Where it is.
        dropped: How many older keys were removed from there.
    """

    total: int
    renewed: int
    key_id: str
    source: str
    dropped: int


async def rotate_secrets(
    db: str | Path, *, drop_old: bool = False, settings: Settings | None = None
) -> Rotation:
    """Encrypt all secrets of a database that is not in use with a new key.

    The new key is the first in ``SECRETS_ENCRYPTION_KEY``; without that variable it is made, and put in
    front of the others in the file beside the database before anything is encrypted with it. Killed at
    any moment, all secrets can be read with the keys that stand there then; running it again goes on.

    Args:
        db: Database file.
        drop_old: In the end, remove the older keys from the file beside the database.
        settings: Defaults to what the environment says.

    Raises:
        DatabaseBusy: a state manager uses the database.
        DatabaseError: the database cannot be used, or a secret cannot be read with the keys that are
            given; then nothing was changed.
        ConfigurationError: a key is none, or the file beside the database cannot be read or written.

    Cancellation:
        As if killed.
    """
    settings = settings or read_settings()
    path = _existing(db)
    from_variable = bool(settings.secrets_encryption_key)
    if from_variable and drop_old:
        raise ConfigurationError(
            "only keys in the file beside the database can be dropped here",
            where=f"{SECRETS_KEY_VARIABLE} is set, and the keys are in it",
            fix="rotate without dropping, then remove the older keys from the variable",
        )
    async with open_store(path) as store:
        if from_variable:
            keys = settings.secrets_encryption_key or ""
            cipher = cipher_from_text(keys, source=SECRETS_KEY_VARIABLE)
        else:
            keys = "\n".join([new_key(), *_keys_in(secret_path(path, KEY_FILE))])
            cipher = cipher_from_text(keys, source=key_file_of(path))
        if problem := (await store.read(check, cipher)).problem:
            raise problem
        if not from_variable:
            # First, and on disk: what is encrypted with a key that got lost is lost.
            write_secret_file(secret_path(path, KEY_FILE), keys)
        found = await store.write(encrypt_anew, cipher)
        await _forget_log(store)
        if drop_old:
            write_secret_file(secret_path(path, KEY_FILE), keys.split()[0])
        dropped = len(cipher.key_ids) - 1 if drop_old else 0
        return Rotation(found.total, found.renewed, cipher.newest, cipher.source, dropped)


def _existing(db: str | Path) -> Path:
    path = Path(db).resolve()
    if not path.is_file():
        raise DatabaseError(f"there is no database {path}", fix="name one with --db FILE")
    return path


def _keys_in(file: Path) -> list[str]:
    try:
        return read_secret_file(file).replace(",", " ").split()
    except FileNotFoundError:
        return []
