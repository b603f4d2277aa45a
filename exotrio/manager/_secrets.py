"""Secrets at rest: AES-256-GCM, bound to the graph and the name they belong to.

The key has nothing to do with the API key. It comes from ``SECRETS_ENCRYPTION_KEY`` or from a file
beside the database that only its owner can read.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
from pathlib import Path

from exotrio._errors import ConfigurationError, DatabaseError
from exotrio.manager._keys import kept_secret

KEY_BYTES = 32
_NONCE_BYTES = 12


class Cipher:
    """Encrypts and decrypts the secrets of graphs.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        self._key = key

    def encrypt(self, value: str, *, namespace: str, graph: str, name: str) -> str:
        """Return url-safe base64 of nonce, ciphertext and tag."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE_BYTES)
        sealed = AESGCM(self._key).encrypt(nonce, value.encode(), _bound_to(namespace, graph, name))
        return base64.urlsafe_b64encode(nonce + sealed).decode()

    def decrypt(self, text: str, *, namespace: str, graph: str, name: str) -> str:
        """Return the plain value.

        Raises:
            DatabaseError: the value was encrypted with another key, or for another place.
        """
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        raw = base64.urlsafe_b64decode(text)
        try:
            plain = AESGCM(self._key).decrypt(
                raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _bound_to(namespace, graph, name)
            )
        except InvalidTag as error:
            raise DatabaseError(
                f"secret {name!r} of graph {graph!r} cannot be decrypted: the encryption key is another one",
                fix="give the key the graph was stored with (SECRETS_ENCRYPTION_KEY, or the key file beside"
                " the database), or upsert the graph again",
            ) from error
        return plain.decode()


def _bound_to(namespace: str, graph: str, name: str) -> bytes:
    return json.dumps([namespace, graph, name]).encode()


def random_cipher() -> Cipher:
    """Return a cipher for secrets that end with the process."""
    return Cipher(secrets.token_bytes(KEY_BYTES))


def cipher_from_text(text: str, *, source: str) -> Cipher:
    """Return the cipher for a key given as base64 of 32 bytes, plain or url-safe.

    Args:
        text: The key.
        source: Where it came from, for the error.

    Raises:
        ConfigurationError: the text is no such key.
    """
    try:
        return Cipher(base64.b64decode(text.strip().translate({45: "+", 95: "/"}), validate=True))
    except (binascii.Error, ValueError) as error:
        raise ConfigurationError(
            "the key for secrets at rest is not 32 bytes in base64",
            where=f"it came from {source}",
            fix="make one with: head -c 32 /dev/urandom | base64",
        ) from error


def cipher_beside(db: Path) -> Cipher:
    """Return the cipher whose key is kept beside a database, making the key at first use."""
    text = kept_secret(db, "secrets-key", lambda: base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode())
    return cipher_from_text(text, source=f"the file {db}.secrets-key")
