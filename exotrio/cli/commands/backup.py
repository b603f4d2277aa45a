"""``python -m exotrio backup``: fetch a backup of the database of a running state manager."""

from __future__ import annotations

from pathlib import Path

import click

from exotrio._util.new_file import require_place
from exotrio.cli.connection import Connection, server_connection
from exotrio.cli.terminal.output import print_text


@click.command(name="backup")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
@server_connection
def command(file: Path, overwrite: bool, connection: Connection) -> None:
    """Write a backup of a state manager's database, with all namespaces, to FILE.

    The state manager keeps working meanwhile. `server --db FILE` starts a state manager on the backup.
    Secrets in it are encrypted, and their key is not in it: also keep the file ending in .secrets-key, or
    SECRETS_ENCRYPTION_KEY, in another place.

    A database on PostgreSQL is backed up with pg_dump; this command then prints how.
    """
    require_place(file, overwrite=overwrite, option="--overwrite")
    size = connection.ask(lambda manager: manager.backup(file, overwrite=overwrite))
    print_text(f"{file}: {size:,} bytes")
