"""``python -m exotrio migrate``: move a database from one engine to another."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
import trio

from exotrio._shared.settings import DATABASE_VARIABLE, read_settings
from exotrio._util.database_url import is_database_url, shown_database
from exotrio._util.words import plural
from exotrio._wire.vocabulary import to_ms
from exotrio.cli import options
from exotrio.cli.exit_codes import bare_errors
from exotrio.cli.groups import Commands
from exotrio.cli.terminal.logs import configure_logs
from exotrio.cli.terminal.output import print_text
from exotrio.manager.database import choose_database
from exotrio.manager.engine.leases import Terms
from exotrio.manager.moving import sqlite_to_postgres
from exotrio.manager.security.encryption import KEY_FILE
from exotrio.manager.security.secret_files import secret_path


@click.group(name="migrate", cls=Commands)
def command() -> None:
    """Move a database to another engine."""


@command.command(name="sqlite-to-postgres")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("url", metavar="[URL]", required=False, type=options.DATABASE_NAME)
@options.seconds("--lease-ttl", 30, "How long a claim is valid without a heartbeat; as for `server`.")
@click.option(
    "--claim-timeout", type=options.SECONDS, help="How long a v0 claim is valid.  [default: no limit]"
)
def to_postgres(file: Path, url: str | None, lease_ttl: float, claim_timeout: float | None) -> None:
    """Move the SQLite FILE of a stopped state manager into the empty PostgreSQL database at URL.

    Everything is moved: runs in flight, schedules, and secrets, which stay encrypted with the same key. Ids
    do not change. Runtimes may continue meanwhile, and deliver afterwards, as when a state manager restarts.

    One transaction moves everything, or nothing. Then FILE is renamed, so that nothing runs twice.

    The password of URL must not be in arguments: set EXOTRIO_DATABASE_URL to the URL and leave it out here,
    or use PGPASSFILE.
    """
    configure_logs(verbose=0)
    db = str(choose_database(url, read_settings()))
    if not is_database_url(db):
        raise click.UsageError(f"no PostgreSQL is named: give its URL, or set {DATABASE_VARIABLE}")
    terms = Terms(
        lease_ttl_ms=to_ms(lease_ttl),
        claim_timeout_ms=None if claim_timeout is None else to_ms(claim_timeout),
    )
    with bare_errors():
        done = trio.run(partial(sqlite_to_postgres, file, db, terms=terms))
    if done.was_moved_before:
        print_text(f"{file} was moved to {shown_database(db)} before, and is renamed {done.renamed} now")
        return
    runs, states = done.rows["runs"], done.rows["states"]
    print_text(
        f"{plural(runs, 'run')} and {plural(states, 'state')} of {file} are in {shown_database(db)} now,"
        f" {sum(done.rows.values()):,} rows in all; the file is renamed {done.renamed}"
    )
    kept = secret_path(file, KEY_FILE)
    print_text(
        "give the state managers the same keys as before: the API key, and for secrets SECRETS_ENCRYPTION_KEY"
        + (f" (without it so far: the text of {kept})" if kept.exists() else "")
    )
