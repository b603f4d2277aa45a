"""The keys for secrets at rest: where they come from, how they are written, and how they are replaced.

They are independent of the API key. They come from ``SECRETS_ENCRYPTION_KEY`` or from a file next to the
database that only its owner can read.

A new key is put in front of the others. All secrets are then encrypted with it in one transaction, by
``rotate_secrets`` and when a state manager starts: a process has to start anyway to learn of a new key, and a
separate step could be forgotten before the old key is removed. Secrets that no key can decrypt are left
unchanged, and can be decrypted once their key is there again.

A backup stays encrypted with the keys that were used when it was made: keep those as long as the backup.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from exotrio._shared.settings import SECRETS_KEY_VARIABLE, Settings, read_settings
from exotrio._util.database_url import is_database_url
from exotrio.errors import ConfigurationError, DatabaseError
from exotrio.manager.rules.access import IN_PROCESS
from exotrio.manager.security.secret_files import (
    kept_secret,
    read_secret_file,
    secret_path,
    write_secret_file,
)
from exotrio.manager.store.base import Store
from exotrio.manager.store.cipher import KEY_BYTES, Cipher, check_secrets, encrypt_again
from exotrio.manager.store.clock import monotonic_clock
from exotrio.manager.store.opening import open_store, write_at_start
from exotrio.manager.store.shared_keys import rotate

logger = logging.getLogger("exotrio.manager")

MAKE_ONE = "head -c 32 /dev/urandom | base64"
KEY_FILE = "secrets-key"
"""Last part of the name of the file next to the database."""


def find_cipher(db: Path | None, settings: Settings, *, shared: bool = False) -> Cipher:
    """Return the cipher for a database.

    Its keys are those in ``SECRETS_ENCRYPTION_KEY``; without it, those in the file next to the database,
    which is made at first use. For a database in memory, the key ends with the process.

    Raises:
        ConfigurationError: a key is malformed; or there is none, and state managers on other machines need
            the same one (``shared``).
    """
    if settings.secrets_encryption_key:
        return cipher_from_text(settings.secrets_encryption_key, source=SECRETS_KEY_VARIABLE)
    if shared:
        raise ConfigurationError(
            "the state manager needs a key for secrets at rest",
            where=f"its PostgreSQL may have other state managers, which need the same one, and"
            f" {SECRETS_KEY_VARIABLE} is not set",
            fix=f"set it for all of them to the output of one call of: {MAKE_ONE}",
        )
    if db is None:
        return Cipher(secrets.token_bytes(KEY_BYTES))
    return cipher_from_text(kept_secret(db, KEY_FILE, new_key), source=key_file_of(db))


def key_file_of(db: Path) -> str:
    """Return the name of the key file next to a database, for messages."""
    return f"the file {secret_path(db, KEY_FILE)}"


def new_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def cipher_from_text(text: str, *, source: str) -> Cipher:
    """Return the cipher for keys of 32 bytes each, in base64, plain or url-safe.

    The keys are newest first, separated by commas, blanks or line ends. A malformed one raises a
    ConfigurationError that names the ``source`` and does not show the key.
    """
    words = re.split(r"[\s,]+", text.strip(" \t\r\n,"))
    keys = []
    for number, word in enumerate(words, 1):
        try:
            key = base64.b64decode(word.translate({45: "+", 95: "/"}), validate=True)
            if len(key) != KEY_BYTES:
                raise ValueError(f"it has {len(key)} bytes")
        except (binascii.Error, ValueError) as error:
            which = "the key" if len(words) == 1 else f"key {number} of {len(words)}"
            raise ConfigurationError(
                f"{which} for secrets at rest is not {KEY_BYTES} bytes in base64",
                where=f"it came from {source}",
                fix=f"make one with: {MAKE_ONE}",
            ) from error
        keys.append(key)
    return Cipher(*keys, source=source)


async def renew_at_start(store: Store, cipher: Cipher) -> None:
    """Encrypt all secrets with the newest key, and log which cannot be decrypted.

    Those do not prevent the start, since the right key, or an upsert of the graph, fixes them. Until then
    each state that needs such a secret is claimed and released again and again.
    """
    report = await write_at_start(store, lambda: store.write(encrypt_again, cipher))
    if report.renewed:
        await store.forget_replaced()
        logger.info(
            "encrypted %d secrets of %d graphs with the key %s, the newest in %s; %s",
            *(report.renewed, report.graphs, cipher.newest, cipher.source),
            "rotate-secrets says when no state manager uses the older keys any more"
            if store.is_shared
            else "the older keys are needed only for backups made before now",
        )
    if report.problem:
        logger.error("%s", report.problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """What ``rotate_secrets`` did.

    Attributes:
        total: How many secrets there are.
        renewed: How many of them were not encrypted with the newest key.
        source: Where the keys are.
        behind: Running state managers that still encrypt with another key.
    """

    total: int
    renewed: int
    key_id: str
    source: str
    behind: Sequence[str] = ()


async def rotate_secrets(db: str | Path, *, settings: Settings | None = None) -> Rotation:
    """Encrypt all secrets of a database with a new key. A file must not be in use.

    The new key is the first in ``SECRETS_ENCRYPTION_KEY``. Without that variable it is generated, and put in
    front of the others in the file next to the database before a secret is encrypted with it. If the process
    is killed, all secrets can be decrypted with the keys in that file, and it can be run again.

    Cancellation:
        As if killed.

    Raises:
        DatabaseBusy: a state manager uses the database.
        DatabaseError: the database cannot be used, or a secret cannot be read with the keys that are
            given; then nothing was changed.
        ConfigurationError: a key is not valid, or the file next to the database cannot be read or written.
    """
    settings = settings or read_settings()
    from_variable = bool(settings.secrets_encryption_key)
    path = None if is_database_url(db) else _existing(db)
    if path is None and not from_variable:
        raise ConfigurationError(
            "on PostgreSQL the keys for secrets must be in the environment",
            where=f"{SECRETS_KEY_VARIABLE} is not set",
            fix=f"set {SECRETS_KEY_VARIABLE} as all state managers have it, the new key in front",
        )
    async with open_store(path or db) as store:
        keys, source = settings.secrets_encryption_key or "", SECRETS_KEY_VARIABLE
        if path is not None and not from_variable:
            older = []
            with suppress(FileNotFoundError):
                older = read_secret_file(secret_path(path, KEY_FILE)).replace(",", " ").split()
            keys, source = "\n".join([new_key(), *older]), key_file_of(path)
        cipher = cipher_from_text(keys, source=source)
        if problem := (await store.read(check_secrets, cipher)).problem:
            raise problem
        if path is not None and not from_variable:
            # First, and on disk: a secret that is encrypted with a lost key is lost.
            write_secret_file(secret_path(path, KEY_FILE), keys)
        now = (store.lease_clock or monotonic_clock)()
        done = await store.write_as(IN_PROCESS, rotate, cipher, now)
        if done.lacking:
            raise DatabaseError(
                f"running state managers lack the key {cipher.newest}, so nothing was changed",
                where=f"those are: {', '.join(done.lacking)}",
                fix=f"give all of them {SECRETS_KEY_VARIABLE}=old,new, then new,old, then run this again",
            )
        await store.forget_replaced()
    return Rotation(
        total=done.report.total,
        renewed=done.report.renewed,
        key_id=cipher.newest,
        source=cipher.source,
        behind=done.behind,
    )


def _existing(db: str | Path) -> Path:
    path = Path(db).resolve()
    if not path.is_file():
        raise DatabaseError(f"there is no database {path}", fix="name one with --db FILE")
    return path
