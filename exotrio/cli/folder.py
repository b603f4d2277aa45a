"""The database of this folder, for commands that no URI of a state manager is given to.

Such a command opens the database itself, or uses the state manager of the process that has it open.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from exotrio._http.endpoint import EMBEDDED_URI, Endpoint
from exotrio._shared.database_files import url_of_owner
from exotrio._shared.settings import KEY_VARIABLE, NAMESPACE_VARIABLE, SERVER_KEY_VARIABLE, read_settings
from exotrio._util.database_url import is_database_url
from exotrio.cli.terminal.output import print_message
from exotrio.errors import ConfigurationError, DatabaseBusy

if TYPE_CHECKING:
    from exotrio.client import StateManager

DATABASE = Path(".exotrio/state.db")
"""Where `run`, `dev` and `server` keep everything, relative to the folder they are started in."""
KEY = Path(".exotrio/state.db.api-key")
"""Where a local state manager keeps its key."""
MEMORY = ":memory:"
"""A database without a file."""


def client_at(endpoint: Endpoint, namespace: str) -> StateManager:
    """Return a client; the caller closes it."""
    from exotrio.client import StateManager  # here, since `worker` needs no client

    return StateManager(namespace, endpoint.uri, endpoint.key, transport=endpoint.transport)


async def open_endpoint(stack: AsyncExitStack, db: str | None) -> Endpoint:
    """Return the state manager of a database: a new one in this process, which is closed with the stack; or
    the one that has the file open and serves it.

    Args:
        stack: Closes a state manager in this process.
        db: The database; None for the default of all commands.

    Raises:
        DatabaseBusy: another process has the file open, and serves it on no port.
    """
    # Here, since a command with a URI needs no manager.
    from exotrio.manager import embedded

    try:
        # Without schedules: what they start would not be executed here.
        transport = await stack.enter_async_context(embedded(db, schedules=False))
    except DatabaseBusy as busy:
        return endpoint_in_use(Path(db or DATABASE), busy)
    return Endpoint(EMBEDDED_URI, None, transport)


def served_here() -> Endpoint | None:
    """Return the state manager that a process serves for the database of this folder; None if none does."""
    url = url_of_owner(DATABASE, checks=True)
    return None if url is None else _endpoint_at(url, DATABASE)


def endpoint_in_use(file: Path, busy: DatabaseBusy) -> Endpoint:
    """Return the state manager of the process that has a database open; DatabaseBusy if it serves none."""
    url = url_of_owner(file)
    if url is None:
        fix = "wait until that process ends; one that is started with `run --serve` or `dev` answers"
        raise DatabaseBusy(busy.what, where=busy.where, fix=fix) from busy
    return _endpoint_at(url, file)


def keys_of(file: Path) -> dict[str, str]:
    """Return the keys that a state manager on a file may have, by where each is, but not from its options.
    It uses the first one."""
    settings = read_settings()
    variables = {SERVER_KEY_VARIABLE: settings.state_manager_secret, KEY_VARIABLE: settings.api_key}
    keys = {f"the key of {name}": key for name, key in variables.items() if key}
    key_file = file.with_name(f"{file.name}.api-key")
    with suppress(OSError, UnicodeDecodeError):
        keys[f"the key in {key_file}"] = key_file.read_text("utf-8").strip()
    return keys


def _endpoint_at(url: str, file: Path) -> Endpoint:
    # It refuses an unknown key, and says what to do.
    return Endpoint(url, next(iter(keys_of(file).values()), "unknown"))


async def find_namespace(endpoint: Endpoint, shown: str) -> str:
    """Return the only namespace of a state manager, or that of its newest run, and print which others there
    are.

    Args:
        shown: The state manager or its database, for messages.

    Raises:
        ConfigurationError: it has none.
    """
    async with client_at(endpoint, "default") as client:
        names = await client.namespaces()
    if not names:
        fix = "run a graph there first (python -m exotrio run FILE); or name another database with --db, or a"
        raise ConfigurationError(
            f"{shown} has no namespace: nothing was ever run there", fix=f"{fix} namespace with -n"
        )
    chosen, choice = await choose_namespace(endpoint, names)
    if choice:
        print_message(choice)
    return chosen


async def choose_namespace(endpoint: Endpoint, names: Sequence[str]) -> tuple[str, str]:
    """Return the only namespace, or that of the newest run, with a sentence that names the others."""
    if len(names) == 1:
        return names[0], ""
    newest: dict[str, float] = {}
    for name in names:
        async with client_at(endpoint, name) as client:
            runs = (await client.runs(1, 1)).runs
        newest[name] = max((run.created_at.timestamp() for run in runs if run.created_at), default=0.0)
    chosen = max(names, key=lambda name: newest[name])
    others = ", ".join(name for name in names if name != chosen)
    return (
        chosen,
        f"namespace {chosen}, that of the newest run; -n or {NAMESPACE_VARIABLE} names another: {others}",
    )


def is_shared(db: str | None) -> bool:
    """Return whether runtimes elsewhere may work on a database that this process has opened."""
    return is_database_url(db) if db is not None else read_settings().database_url is not None
