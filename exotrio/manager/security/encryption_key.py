"""The keys for secrets at rest: where they come from, and how they are written.

They have nothing to do with the API key. They come from ``SECRETS_ENCRYPTION_KEY`` or from a file beside the
database that only its owner can read.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
from pathlib import Path

from exotrio._util.settings import SECRETS_KEY_VARIABLE, Settings
from exotrio.errors import ConfigurationError
from exotrio.manager.security.secret_files import kept_secret, secret_path
from exotrio.manager.store.cipher import KEY_BYTES, Cipher

KEY_FILE = "secrets-key"
"""Last part of the name of the file beside the database."""


def find_cipher(db: Path | None, settings: Settings) -> Cipher:
    """Return the cipher for a database.

    Its keys are those in ``SECRETS_ENCRYPTION_KEY``; without it, those in the file beside the database,
    which is made at first use; and in memory one that ends with the process.

    Args:
        db: The file, or None in memory.
        settings: The environment.

    Raises:
        ConfigurationError: what is given is not a key.
    """
    if settings.secrets_encryption_key:
        return cipher_from_text(settings.secrets_encryption_key, source=SECRETS_KEY_VARIABLE)
    if db is None:
        return random_cipher()
    return cipher_from_text(kept_secret(db, KEY_FILE, new_key), source=key_file_of(db))


def key_file_of(db: Path) -> str:
    """Return the name of the key file beside a database, for messages."""
    return f"the file {secret_path(db, KEY_FILE)}"


def random_cipher() -> Cipher:
    """Return a cipher for secrets that end with the process."""
    return Cipher(secrets.token_bytes(KEY_BYTES))


def new_key() -> str:
    """Return a new key, as text."""
    return base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode()


def cipher_from_text(text: str, *, source: str) -> Cipher:
    """Return the cipher for keys given as base64 of 32 bytes each, plain or url-safe.

    Args:
        text: The keys, newest first, with commas, blanks or line ends between them.
        source: Where they came from, for the error.

    Raises:
        ConfigurationError: one of them is not such a key. It is not shown.
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
                fix="make one with: head -c 32 /dev/urandom | base64",
            ) from error
        keys.append(key)
    return Cipher(*keys, source=source)
