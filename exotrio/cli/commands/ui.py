"""``python -m exotrio ui``: the dashboard of a database, in a browser."""

from __future__ import annotations

from pathlib import Path

import click
import trio

from exotrio._shared.settings import read_settings
from exotrio._util.database_url import is_database_url
from exotrio.cli import options
from exotrio.cli.connection import NO_DATABASE
from exotrio.cli.exit_codes import SUCCESS, bare_errors
from exotrio.cli.folder import client_at, endpoint_in_use, keys_of
from exotrio.cli.program import run_until_stopped
from exotrio.cli.terminal.logs import configure_logs
from exotrio.cli.terminal.output import print_message
from exotrio.errors import ConfigurationError, DatabaseBusy, ManagerError


@click.command(name="ui")
@options.database("The database: a SQLite file, or postgresql://USER@HOST/NAME.  " + options.WHERE_BY_DEFAULT)
@click.option(
    "--port",
    type=options.PORT,
    default=0,
    metavar="PORT",
    help="Port of 127.0.0.1 to serve it on.  [default: any free one]",
)
@click.option(
    "--no-open",
    is_flag=True,
    help="Open no browser; only print the link that signs you in (in a log: a page that leads there).",
)
def command(db: str | None, port: int, no_open: bool) -> int:
    """Open the dashboard of a database in a browser, signed in, and serve it until Ctrl-C.

    It shows runs, and can change them. States that are started or retried there are executed once a runtime
    works on the database: with `dev FILE`, or `run FILE --resume RUN`. Schedules start no runs meanwhile.

    If another command, such as `server` or `dev`, has the file open, its dashboard is opened, signed in, and
    this command ends.
    """
    configure_logs(verbose=0, quiet=True)
    database = _existing(db)
    scope = trio.CancelScope()

    async def main() -> int:
        with bare_errors(), scope:
            await _show(database, port, opens=not no_open)
        return SUCCESS

    return run_until_stopped(main, lambda grace, why: scope.cancel(), exiting=lambda: "what is stored stays")


def _existing(db: str | None) -> str | Path:
    from exotrio.manager.database import choose_database  # here, since --help needs no state manager

    database = choose_database(db, read_settings())
    if not is_database_url(database) and not Path(database).is_file():
        raise ConfigurationError(f"there is no database {database}", fix=NO_DATABASE)
    return database


async def _show(database: str | Path, port: int, *, opens: bool) -> None:
    # Here, as above.
    from exotrio.cli.terminal.browser import open_in_browser, page_next_to, show_sign_in, sign_in_page
    from exotrio.manager.serving import embedded_and_served

    try:
        async with embedded_and_served(database, ports=(port,), schedules=False) as served:
            with sign_in_page(database) as page:
                await show_sign_in(served.sign_in_link, page, opens=opens)
                print_message("Ctrl-C ends it")
                await trio.sleep_forever()
    except DatabaseBusy as busy:
        file = Path(database)
        endpoint = endpoint_in_use(file, busy)
    async with client_at(endpoint, "default") as manager:
        try:
            await show_sign_in(manager.sign_in_link, page_next_to(file), opens=opens)
        except ManagerError:  # that state manager is older, or has another key
            print_message(f"dashboard: {endpoint.uri}\nsign in with {next(iter(keys_of(file)), 'its key')}")
            if opens and not await open_in_browser(endpoint.uri):
                print_message("no browser could be opened: open the address yourself")
