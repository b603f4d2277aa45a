"""``python -m exotrio rotate-secrets``: encrypt the secrets in a database with a new key."""

from __future__ import annotations

import click
import trio

from exotrio._shared.settings import read_settings
from exotrio._util.words import plural
from exotrio.cli import options
from exotrio.cli.exit_codes import bare_errors
from exotrio.cli.terminal.output import print_text
from exotrio.manager.database import choose_database
from exotrio.manager.security.encryption import rotate_secrets


@click.command(name="rotate-secrets")
@options.database(f"SQLite file, not in use, or postgresql://USER@HOST/NAME.  {options.WHERE_BY_DEFAULT}")
def command(db: str | None) -> None:
    """Encrypt all secrets in a database with a new key; a SQLite file must not be in use.

    The new key is the first one in SECRETS_ENCRYPTION_KEY (32 bytes in base64; several are separated by
    commas or blanks, newest first). Without that variable a key is generated, and put before the others
    in the file ending in .secrets-key next to the database, one in each line.

    All secrets are encrypted again, or none; if it is interrupted, run it again. If a secret cannot be
    read with any of the keys, nothing is changed. Earlier backups need the older keys: keep those as long as
    the backups, then remove them.

    A state manager does the same when it starts: to replace the key in SECRETS_ENCRYPTION_KEY, put the
    new one first and restart it; remove the old one when its log says that it is no longer needed.

    On PostgreSQL it works while state managers run, once all of them know the new key: give all of them
    SECRETS_ENCRYPTION_KEY=old,new, then all of them new,old, then run this with the same value, then
    remove the old one from all of them.
    """
    with bare_errors():
        chosen = choose_database(db, read_settings())
        done = trio.run(rotate_secrets, chosen)
    print_text(
        f"{done.total:,} secrets are encrypted with the key {done.key_id}, the newest in {done.source};"
        f" {done.renewed:,} were not before"
    )
    if not done.behind:
        print_text("older keys are needed only for backups made before now")
    else:
        print_text(
            f"{plural(len(done.behind), 'running state manager')} still"
            f" encrypt{'s' if len(done.behind) == 1 else ''} with an older key: restart with the new one in"
            f" front, then run this again: {', '.join(done.behind)}"
        )
