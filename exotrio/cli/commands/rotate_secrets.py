"""``python -m exotrio rotate-secrets``: encrypt the secrets in a database with a new key."""

from __future__ import annotations

from functools import partial

import click
import trio

from exotrio.cli.exit_codes import SUCCESS, bare_errors
from exotrio.cli.terminal.output import print_text
from exotrio.manager.database import DEFAULT_DB
from exotrio.manager.security.encryption import rotate_secrets


@click.command(name="rotate-secrets")
@click.option("--db", default=str(DEFAULT_DB), show_default=True, help="SQLite file, not in use.")
@click.option(
    "--drop-old-keys",
    "drop_old",
    is_flag=True,
    help="Remove the older keys from the file beside the database at the end; earlier backups need them.",
)
def command(db: str, drop_old: bool) -> int:
    """Encrypt all secrets in the database of a stopped state manager with a new key.

    The new key is the first one in SECRETS_ENCRYPTION_KEY (32 bytes in base64; several are separated by
    commas or blanks, newest first). Without that variable a key is generated, and put before the others
    in the file ending in .secrets-key beside the database.

    All secrets are encrypted anew, or none; if it is interrupted, run it again. A secret that no given
    key can read stops it before anything is changed. Earlier backups need the older keys: keep those as
    long as the backups.

    A state manager does the same when it starts: to replace the key in SECRETS_ENCRYPTION_KEY, put the
    new one first and restart it; remove the old one when its log says that it is no longer needed.
    """
    with bare_errors():
        done = trio.run(partial(rotate_secrets, db, drop_old=drop_old))
    print_text(
        f"{done.total:,} secrets are encrypted with the key {done.key_id}, the newest in {done.source};"
        f" {done.renewed:,} were not before"
    )
    if done.dropped:
        print_text(f"removed from there: {done.dropped} older; backups made before need them")
    elif done.renewed:
        print_text("the older keys are needed only for backups made before now")
    return SUCCESS
