"""Versions of code, as runtimes and graphs name them, and the names of nodes of one version.

A runtime of version ``2`` registers its node ``Fetch`` twice: as ``Fetch``, of which the last registration
counts, and as ``Fetch@2``, which has the fields and secrets of that version. A place of a graph of version
``2`` runs ``Fetch@2``. So whatever knows nodes by their names keeps the versions apart.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from exotrio._util.words import shortened

MAX_VERSION = 64
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", re.ASCII)


def check_version(version: str) -> str:
    """Return a version; ValueError says what is wrong with it."""
    if not _VERSION.fullmatch(version):
        raise ValueError(
            f"is not a version: {shortened(version, MAX_VERSION)!r}; write 1 to {MAX_VERSION} letters, digits"
            " or . _ + -, a letter or digit first, as in '2026.11.2'"
        )
    return version


Version = Annotated[str, AfterValidator(check_version)]


def split_name(name: str) -> tuple[str, str | None]:
    """Return the name of a node without its version, and the version; None for a node of any version."""
    node, at, version = name.rpartition("@")
    return (node, version) if at and node and _VERSION.fullmatch(version) else (name, None)


def pinned_name(name: str, version: str) -> str:
    """Return the name under which a node of this version is registered, also of one that names another."""
    return f"{split_name(name)[0]}@{version}"
