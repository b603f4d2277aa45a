"""``python -m exotrio backup``: fetch a backup of a state manager's database while it works."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import trio

from exotrio._client import StateManager
from exotrio.cli import _output
from exotrio.cli._exit import bare_errors


@click.command(name="backup")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--uri", help="The state manager.  [default: EXOSPHERE_STATE_MANAGER_URI]")
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
def command(file: Path, uri: str | None, overwrite: bool) -> int:
    """Write a backup of a state manager's database, all namespaces in it, to FILE.

    The state manager goes on working meanwhile. `server --db FILE` goes on with what is in the
    backup. Secrets are encrypted in it, and the key for them is not part of it: keep the file
    ending in .secrets-key (or SECRETS_ENCRYPTION_KEY) too, in another place.

    The state manager is EXOSPHERE_STATE_MANAGER_URI with the key EXOSPHERE_API_KEY, from the
    environment or .env.
    """

    async def main() -> int:
        # A backup is of no namespace; a client is always of one.
        async with StateManager("default", uri) as manager:
            return await manager.backup(file, overwrite=overwrite)

    with bare_errors():
        size = trio.run(main)
    _output.result(f"{file}: {size:,} bytes", sys.stdout)
    return 0
