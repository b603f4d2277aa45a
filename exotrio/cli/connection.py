"""The state manager that a command is for: the options that name it, and calls to it."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import click
import trio

from exotrio._http.endpoint import Endpoint, resolve_endpoint
from exotrio._shared.settings import (
    KEY_VARIABLE,
    NAMESPACE_VARIABLE,
    URI_VARIABLE,
    read_key_file,
    read_settings,
    source_of,
    source_of_key,
)
from exotrio._util.database_url import is_database_url, shown_database
from exotrio._util.times import iso_time
from exotrio._util.words import listed
from exotrio.cli import options
from exotrio.cli.exit_codes import bare_errors
from exotrio.cli.folder import DATABASE, KEY, client_at, find_namespace, is_shared, open_endpoint
from exotrio.cli.program import command_line
from exotrio.cli.terminal.logs import show_warnings
from exotrio.cli.terminal.output import print_as, print_message, table
from exotrio.client import StateManager
from exotrio.errors import ConfigurationError, ExotrioError, KeyRefused

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

namespace_option = options.name(
    "-n",
    "--namespace",
    kind="namespace",
    help=f"Namespace of the graphs and runs.  [default: {NAMESPACE_VARIABLE}; without it, the only one, or"
    " that of the newest run]",
)
_uri_option = click.option(
    "--uri",
    metavar="URI",
    help=f"The state manager.  [default: {URI_VARIABLE}; without it, that of the database]",
)
_key_option = click.option(
    "--key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"File that holds the API key.  [default: the key {KEY_VARIABLE}]",
)
_db_option = options.database(
    "Instead of a URI, the database: a PostgreSQL; or a SQLite file, also one that `server`, `dev` or"
    f" `run --serve` has open.  {options.WHERE_BY_DEFAULT}"
)

NO_DATABASE = "run a graph here first (python -m exotrio run FILE), or name a database with --db"


@dataclass(slots=True, kw_only=True)
class Connection:
    """Which state manager and which namespace a command is for, and how it prints its result."""

    namespace: str
    """Empty until ``open``, if none is given; then that which ``find_namespace`` finds."""
    endpoint: Endpoint | None = None
    """None for the state manager of a database."""
    arguments: tuple[str, ...] = ()
    """The options that name the state manager and the namespace, to repeat them in a printed command."""
    db: str | None = None
    """The database, if there is no ``endpoint``; None: the one of this folder."""
    form: str = "table"
    """The value of ``--output``: ``table`` or ``json``."""
    is_alone: bool = False
    """Whether only this process has the database open, so that no runtime executes states. ``open`` sets
    it."""

    @property
    def where(self) -> str:
        """The state manager or its database, for messages: without a password."""
        return self.endpoint.shown if self.endpoint is not None else shown_database(self.db or DATABASE)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[StateManager]:
        """Yield a client, which is closed at the end of the block."""
        async with AsyncExitStack() as stack:
            endpoint = self.endpoint
            if endpoint is None:
                endpoint = await open_endpoint(stack, self.db)
                self.is_alone = endpoint.transport is not None and not is_shared(self.db)
            if not self.namespace:
                self.namespace = await find_namespace(endpoint, self.where)
                self.arguments = ("--namespace", self.namespace, *self.arguments)
            yield await stack.enter_async_context(client_at(endpoint, self.namespace))

    def how_to_execute(self, run_id: str) -> str:
        """Return how to continue a run in a database that only this process has open."""
        db = [] if self.db is None else ["--db", self.db]
        command = command_line(["run", "FILE", *db, "--resume", run_id])
        return f"no runtime works on {self.where}; continue the run with: {command}"

    def ask(self, function: Callable[[StateManager], Awaitable[T]]) -> T:
        """Run a function with a client, in a new event loop, and return its result."""

        async def main() -> T:
            async with self.open() as manager:
                return await function(manager)

        with self.readable_errors():
            return trio.run(main)

    @contextmanager
    def readable_errors(self) -> Iterator[None]:
        """Raise errors without exception groups, and with a fix that fits the command line."""
        with bare_errors():
            try:
                yield
            except KeyRefused as error:
                which = "a key that the server accepts" if error.status == 401 else "a key that may do this"
                fix = f"give {which} with --key-file FILE, or set {KEY_VARIABLE}"
                raise KeyRefused(error.what, status=error.status, where=error.where, fix=fix) from error

    def print(self, body: Any, lines: Iterable[str]) -> None:
        """Print a result: the body for programs, or the lines for people."""
        print_as(self.form, body, lines)

    def print_pause(self, kind: Literal["node", "graph"], name: str, paused_at: datetime | None) -> None:
        """Print since when a node, or the schedule of a graph, is paused, and how to resume it."""
        what, group = ("node", "nodes") if kind == "node" else ("the schedule of graph", "graph")
        since = paused_at and iso_time(paused_at)
        resume = command_line([group, "resume", name, *self.arguments])
        state = f"is paused since {since}; resume it with: {resume}" if since else "is not paused any more"
        self.print({"namespace": self.namespace, kind: name, "paused_at": since}, [f"{what} {name} {state}"])

    def print_list(
        self, heads: Sequence[str], rows: Sequence[Sequence[str]], *more: str, hint: str = "", **body: Any
    ) -> None:
        """Print a list from the namespace: a table with more lines below, or the body for programs.

        If it is empty, also print the hint how to get entries, and which namespaces there are if this one has
        no nodes.
        """
        self.print({"namespace": self.namespace, **body}, chain(table(heads, rows), more))
        if rows or self.form == "json":
            return
        self.doubt_namespace()
        if hint:
            print_message(hint)

    def doubt_namespace(self) -> None:
        """Print which namespaces there are, if this one has no nodes: its name may be mistyped."""
        others: list[str] = []
        with suppress(ExotrioError):  # the result was printed already
            others = self.ask(StateManager.namespaces)
        if others and self.namespace not in others:
            print_message(f"no node is registered in namespace {self.namespace}; there are {listed(others)}")


def connection(function: F) -> F:
    """Add the options for a namespace of a state manager and for the output; the command gets ``connection``.

    Every default is read from the environment, then from .env. The key itself is not an option: other
    users of the machine can read arguments.
    """
    return options.output(namespace_option(server_connection(function)))


def server_connection(function: F) -> F:
    """As ``connection``, for calls that concern all namespaces and print no table."""

    @functools.wraps(function)
    def connected(
        *args: Any,
        # A client always has a namespace, even if its calls do not use it.
        namespace: str | None = "default",
        uri: str | None,
        key_file: Path | None,
        db: str | None,
        output: str = "table",
        **others: Any,
    ) -> Any:
        show_warnings()  # such as that the key is sent unencrypted
        chosen = replace(resolve(namespace, uri, key_file, db), form=output)
        return function(*args, connection=chosen, **others)

    return _server_options(cast("F", connected))


def _server_options(function: F) -> F:
    return _uri_option(_key_option(_db_option(function)))


def named_options(function: F) -> F:
    """Add the options that name a namespace and a state manager; the command gets the arguments of
    ``resolve``."""
    return namespace_option(_server_options(function))


def resolve(namespace: str | None, uri: str | None, key_file: Path | None, db: str | None) -> Connection:
    """Return the state manager that these options and the environment name."""
    settings = read_settings()
    namespace = namespace or settings.namespace or ""
    arguments = ["--namespace", namespace] if namespace != (settings.namespace or "") else []
    if db is not None:
        if uri or key_file:
            raise click.UsageError("--db needs no state manager: leave out --uri and --key-file")
        if not is_database_url(db) and not Path(db).is_file():
            raise ConfigurationError(f"there is no database {db}", fix=NO_DATABASE)
        return Connection(namespace=namespace, db=db, arguments=(*arguments, "--db", db))
    if not (uri or key_file or settings.state_manager_uri):
        if settings.database_url or DATABASE.is_file():
            return Connection(namespace=namespace, arguments=tuple(arguments))
        raise ConfigurationError(
            f"no state manager is given, and there is no database {DATABASE} in this folder",
            fix=f"{NO_DATABASE}, or a state manager with --uri and --key-file, or in {URI_VARIABLE} and"
            f" {KEY_VARIABLE}",
        )
    problems = []
    chosen_uri = uri or settings.state_manager_uri
    key = read_key_file(key_file, "option --key-file") if key_file is not None else settings.api_key
    if not chosen_uri:
        problems.append(
            f"no state manager: give --uri http://127.0.0.1:8000, or set {URI_VARIABLE} "
            "(a local one: python -m exotrio server)"
        )
    if not key:
        problems.append(f"no API key: {how_to_give_a_key()}")
    endpoint = None
    if chosen_uri and key:
        endpoint, more = resolve_endpoint(
            chosen_uri,
            key,
            uri_source="--uri" if uri else source_of(URI_VARIABLE),
            key_source=f"--key-file {key_file}" if key_file else source_of_key(settings),
        )
        problems += more
    if problems or endpoint is None:
        raise ConfigurationError(
            "the state manager cannot be addressed",
            problems,
            where="variables are read from the environment and from .env in the working directory",
        )
    arguments += ["--uri", uri] if uri else []
    arguments += ["--key-file", str(key_file)] if key_file else []
    return Connection(namespace=namespace, endpoint=endpoint, arguments=tuple(arguments))


def how_to_give_a_key() -> str:
    """Return what to do if there is no key, for messages."""
    local = f"; for the state manager of this folder: --key-file {KEY}"
    return f"give --key-file FILE, or set {KEY_VARIABLE}{local if KEY.is_file() else ''}"
