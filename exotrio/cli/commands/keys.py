"""``python -m exotrio keys``: list, add and revoke named keys."""

from __future__ import annotations

import os
from pathlib import Path

import click

from exotrio._util.times import iso_time
from exotrio._util.words import plural
from exotrio.cli import options
from exotrio.cli.connection import Connection, server_connection
from exotrio.cli.groups import Commands
from exotrio.cli.terminal.output import print_message, table
from exotrio.client import KeyInfo, StateManager
from exotrio.errors import ConfigurationError


@click.group(name="keys", cls=Commands)
def command() -> None:
    """List, add and revoke keys that may do a part of what the root key may.

    These commands need the root key, the one that the state manager was started with, or a key with the scope
    admin.
    """


@command.command(name="ls")
@options.output
@server_connection
def ls(connection: Connection) -> None:
    """List the named keys, without their texts; revoked ones too.

    JSON: keys (id, name, scopes, created_at, expires_at, revoked_at, used_at, is_valid).
    """
    keys = connection.ask(StateManager.keys).keys
    invalid = sum(not key.is_valid for key in keys)
    total = plural(len(keys), "key") + (f", {invalid:,} revoked or expired" if invalid else "")
    rows = [
        (
            key.name,
            key.id,
            " ".join(key.scopes),
            _ends(key),
            "never" if key.used_at is None else iso_time(key.used_at, "seconds"),
        )
        for key in keys
    ]
    connection.print({"keys": keys}, [*table(("name", "id", "scopes", "ends", "used"), rows), total])


@command.command(name="add")
@click.argument("name", metavar="NAME")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    metavar="SCOPE",
    help="What it may do: runtime:NS, trigger:NS, read:NS, graphs:NS (NS: a namespace, or * for all), admin;"
    " repeatable.",
)
@click.option(
    "--expires", type=options.DURATION, help="How long it is valid: 12h, 90d; by default without end."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write it to this new file, which only you can read, instead of printing it.",
)
@options.output
@server_connection
def add(
    name: str, scopes: tuple[str, ...], expires: float | None, out: Path | None, connection: Connection
) -> None:
    """Add a key and print it. This is the only time: no command shows it again.

    JSON: id, name, scopes, created_at, expires_at, revoked_at, used_at, is_valid, and key without --out.
    """
    descriptor = None if out is None else _new_file(out)
    try:
        added = connection.ask(lambda manager: manager.add_key(name, scopes, expires=expires))
    except BaseException:
        if out is not None and descriptor is not None:
            os.close(descriptor)
            out.unlink()
        raise
    for scope in added.scopes:
        permission, _, namespace = scope.partition(":")
        if ":" in namespace:  # Namespaces may have one, but more likely a part of a namespace is meant.
            meant = namespace.partition(":")[0]
            print_message(
                f"warning: scope {scope} is for a namespace named {namespace!r}, since scopes are for whole"
                f" namespaces; use {permission}:{meant} for the namespace {meant!r}"
            )
    body = added.model_dump(mode="json", exclude={"text"})
    if descriptor is None:
        connection.print({**body, "key": added.text}, [added.text])
        return
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(f"{added.text}\n")
    connection.print(body, [f"{out}: key {added.name} ({added.id}), {_ends(added) or 'valid forever'}"])


@command.command(name="revoke")
@click.argument("name_or_id", metavar="NAME|ID")
@options.output
@server_connection
def revoke(name_or_id: str, connection: Connection) -> None:
    """Revoke the key with this id, or else all keys of this name.

    Within 5 s all state managers refuse them, and their sessions at dashboards end.

    JSON: keys (as in `keys ls`).
    """
    keys = connection.ask(lambda manager: manager.revoke_key(name_or_id))
    connection.print({"keys": keys}, [f"key {key.name} ({key.id}) is revoked" for key in keys])


def _new_file(path: Path) -> int:
    """Make a file that only its owner can read; return its descriptor."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"the key cannot be written to {path}: {error.strerror}", fix="name a new file: --out FILE"
        ) from error


def _ends(key: KeyInfo) -> str:
    if key.revoked_at is not None:
        return f"revoked {iso_time(key.revoked_at, 'seconds')}"
    if key.expires_at is None:
        return ""
    return f"{'expires' if key.is_valid else 'expired'} {iso_time(key.expires_at, 'seconds')}"
