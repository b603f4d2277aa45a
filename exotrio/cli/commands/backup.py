"""``python -m exotrio backup``: fetch a backup of a state manager's database while it works."""

from __future__ import annotations

from pathlib import Path

import click

from exotrio.cli.connection import Connection, server_connection
from exotrio.cli.exit_codes import SUCCESS
from exotrio.cli.terminal.output import print_text


@click.command(name="backup")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
@server_connection
def command(file: Path, overwrite: bool, connection: Connection) -> int:
    """Write a backup of a state manager's database, all namespaces in it, to FILE.

    The state manager goes on working meanwhile. `server --db FILE` goes on with what is in the
    backup. Secrets are encrypted in it, and the key for them is not part of it: keep the file
    ending in .secrets-key (or SECRETS_ENCRYPTION_KEY) too, in another place.
    """
    size = connection.ask(lambda manager: manager.backup(file, overwrite=overwrite))
    print_text(f"{file}: {size:,} bytes")
    return SUCCESS
