"""Bodies of the native routes about named keys, and the text of a key."""

import secrets
import string
from hashlib import sha256
from typing import Annotated, ClassVar, NamedTuple

from pydantic import ConfigDict, Field

from exotrio._wire.body import Body, Moment
from exotrio._wire.vocabulary import NATIVE_ROOT

KEYS_PATH = f"{NATIVE_ROOT}/keys"
KEY_ID = "[a-z0-9]{8}"
KEY_TEXT = rf"exo_(?P<id>{KEY_ID})_[A-Za-z0-9_-]{{43}}"
"""Regular expressions."""
MAX_SCOPES = 100
MAX_EXPIRY_MS = 10 * 365 * 86_400_000


class KeyText(NamedTuple):
    """The text of a new key, its id, and the digest of the text."""

    text: str
    id: str
    digest: str


def make_key() -> KeyText:
    """Return a new random key."""
    key_id = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))
    text = f"exo_{key_id}_{secrets.token_urlsafe(32)}"
    return KeyText(text, key_id, sha256(text.encode()).hexdigest())


class NewKey(Body):
    """Body of ``PUT .../keys/{key}``: a key to add. The text of the key itself is not sent.

    Fields:
        digest: SHA-256 of the text of the key, in hex.
        scopes: Such as ``runtime:shop``, ``read:*`` or ``admin``.
        expires_in_ms: From now; null: never.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[list[str], Field(min_length=1, max_length=MAX_SCOPES)]
    expires_in_ms: Annotated[int, Field(gt=0, le=MAX_EXPIRY_MS)] | None = None


class KeyInfo(Body):
    """A named key, without its text.

    Fields:
        expires_at: null: never.
        revoked_at: null: it is not revoked.
        used_at: When it was used last, to about a minute; null: never.
        is_valid: Whether it is neither revoked nor expired.
    """

    id: str
    name: str
    scopes: list[str]
    created_at: Moment
    expires_at: Moment | None
    revoked_at: Moment | None
    used_at: Moment | None
    is_valid: bool


class KeyList(Body):
    """Reply of ``GET .../keys``, by name; and of ``DELETE .../keys/{key}``: those that are revoked now.

    Fields:
        held_by_root: How many states runtimes hold by the root key; null after a deletion.
    """

    keys: list[KeyInfo]
    held_by_root: int | None = None
