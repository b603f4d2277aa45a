"""URLs of PostgreSQL databases: recognizing them, and showing them without their passwords.

They are read as libpq reads them, which differs from ``urllib``: a password may contain a ``?``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import unquote

from exotrio._util.redaction import MASK
from exotrio.errors import ConfigurationError

SCHEMES = ("postgresql://", "postgres://")
_SECRET_WORDS = ("password", "secret", "scram")
"""Parts of the names of parameters whose values are secret."""
_UNENCRYPTED = ("disable", "allow", "prefer")
"""Modes in which libpq connects without TLS: always, or if the server refuses it."""
_NOT_A_FILE = re.compile(r"://|^postgres(ql)?:|(^|\s)(host|dbname|service|user|password)\s*=")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseUrl:
    """The parts of a URL.

    Attributes:
        text: All of it, for libpq.
        shown: Without passwords, for every reader.
        secrets: The passwords, both as they are written and decoded.
        hosts: Names, addresses or folders of sockets; empty if libpq's defaults apply.
        parameters: Names after the ``?``.
        sslmode: Its mode of TLS, in libpq's words; empty if it has none.
    """

    text: str = field(repr=False)
    shown: str
    secrets: tuple[str, ...] = field(repr=False)
    hosts: tuple[str, ...]
    parameters: frozenset[str]
    sslmode: str

    def redact(self, text: str) -> str:
        """Return a text, such as an error of libpq, without the passwords and without the URL itself."""
        text = text.replace(self.text, self.shown)
        for secret in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(secret, MASK)
        return text

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine: on a socket, which is the default, or a loopback address."""
        hosts = self.hosts or _libpq_hosts()
        return hosts is not None and "service" not in self.parameters and all(map(_is_local, hosts))

    @property
    def unencrypted_sslmode(self) -> str | None:
        """Return the mode by which sessions may go over a network without TLS; None if they do not."""
        if self.is_local:
            return None
        mode = self.sslmode or (None if "service" in self.parameters else _libpq_sslmode())
        return mode if mode in _UNENCRYPTED else None


def is_database_url(db: str | Path) -> bool:
    """Return whether this names a PostgreSQL database, not a file."""
    return str(db).startswith(SCHEMES)


def check_database(db: str | Path) -> None:
    """Check that this names a file, memory, or a PostgreSQL.

    ConfigurationError: it is another kind of URL, half a URL, or libpq's ``key=value``. Used as a path, it
    would become the name of files, with the password in it.
    """
    if is_database_url(db):
        parse_database_url(str(db))
    elif _NOT_A_FILE.search(str(db)):
        raise ConfigurationError(
            "the database is neither a file nor the URL of a PostgreSQL",
            fix="write postgresql://user@host:5432/name, or name a file for SQLite",
        )


def shown_database(db: str | Path) -> str:
    """Return the name of a database, a file or a URL, without passwords."""
    return parse_database_url(str(db)).shown if is_database_url(db) else str(db)


def parse_database_url(text: str, *, source: str = "the argument db") -> DatabaseUrl:
    """Parse a URL.

    ConfigurationError: it is not one, or a user name or password in it is not percent-encoded, so that a part
    of it would be taken for the host. The error does not show any part of it.
    """
    scheme = next((each for each in SCHEMES if text.startswith(each)), None)
    if scheme is None:
        raise ConfigurationError(
            "this is not the URL of a PostgreSQL database",
            where=f"it came from {source}",
            fix="write it as postgresql://user@host:5432/name",
        )
    url = text[len(scheme) :]
    credentials, at, rest = url.partition("@")
    if not at or "/" in credentials:
        credentials, at, rest = "", "", url
    target, mark, query = rest.partition("?")
    if "@" in target or any(character.isspace() for character in text):
        raise ConfigurationError(
            "the user name or the password in the URL of the database is not percent-encoded",
            where=f"it came from {source}",
            fix="write @ as %40, / as %2F, : as %3A, a blank as %20",
        )
    user, _, password = credentials.partition(":")
    parameters = [pair.partition("=") for pair in query.split("&") if pair]
    kept = [f"{name}{sign}{value}" for name, sign, value in parameters if not _is_secret(name)]
    values = [password, *(value for name, _, value in parameters if _is_secret(name))]
    hosts = [unquote(_without_port(host)) for host in target.partition("/")[0].split(",")]
    for name, _, value in parameters:
        if name in {"host", "hostaddr"}:
            hosts += unquote(value).split(",")
    return DatabaseUrl(
        text=text,
        shown=f"{scheme}{user}{at if user else ''}{target}{mark if kept else ''}{'&'.join(kept)}",
        secrets=tuple({form for value in values if value for form in (value, unquote(value))}),
        hosts=tuple(filter(None, hosts)),
        parameters=frozenset(name for name, _, _ in parameters),
        sslmode=next((unquote(value) for name, _, value in reversed(parameters) if name == "sslmode"), ""),
    )


def _is_secret(name: str) -> bool:
    return any(word in name.lower() for word in _SECRET_WORDS)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_local(host: str) -> bool:
    # @ begins the name of an abstract socket.
    return host.startswith(("/", "@")) or is_loopback(host)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that binds ``host``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _libpq_hosts() -> list[str] | None:
    """Return the hosts of PostgreSQL in libpq's own variables; None if a service file names them."""
    if os.environ.get("PGSERVICE"):
        return None
    values = ",".join(os.environ.get(name, "") for name in ("PGHOST", "PGHOSTADDR"))
    return [host for host in values.split(",") if host]


def _libpq_sslmode() -> str | None:
    """Return the mode of TLS in libpq's own variables; None if a service file may have one."""
    return os.environ.get("PGSSLMODE") or (None if os.environ.get("PGSERVICE") else "prefer")
