"""Declares the user's graphs at the state manager of ``dev``, and prints what happens there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import trio

from exotrio._util.words import listed
from exotrio._wire.graphs import GraphBody
from exotrio.cli.dev import messages
from exotrio.cli.dev.protocol import DeclaredGraph, Loaded
from exotrio.cli.dev.run_events import print_run_events, unfinished
from exotrio.cli.graphs.file import Draft
from exotrio.cli.graphs.problems import Locator
from exotrio.cli.runs.remote import check_run_values, start_run
from exotrio.cli.terminal.browser import open_in_browser, write_redirect
from exotrio.cli.terminal.output import print_message
from exotrio.cli.terminal.words import meant
from exotrio.client import StateManager, ValidationStatus
from exotrio.errors import ConfigurationError, ExotrioError, GraphInvalid, NotFound
from exotrio.manager.serving import Served

VALIDATION = 60.0
"""Seconds for a graph to be validated; here the answer comes at once."""


@dataclass(frozen=True, slots=True)
class FirstRun:
    """The run that is started at once.

    Attributes:
        graph: Name of the graph; None for the only one.
    """

    graph: str | None
    inputs: Mapping[str, str]
    store: Mapping[str, str]


class Announcer:
    """Keeps the state manager, and what is on the screen, in step with the code.

    Args:
        path: The file or module, for messages.
        served: The state manager.
        key_file: Holds the API key; None if commands have it from their environment.
        page: Place of the page by which a browser is signed in; None to open none.
        first_run: Started once the graph for it is there.
        background: Where tasks run until the end.

    Attributes:
        known: The code that was announced last.
    """

    def __init__(
        self,
        path: str,
        served: Served,
        key_file: Path | None,
        *,
        page: Path | None,
        first_run: FirstRun | None,
        background: trio.Nursery,
    ) -> None:
        self.known: Loaded | None = None
        self._path = path
        self._served = served
        self._address = messages.ManagerAddress(served.url, key_file)
        self._page = page
        self._first_run = first_run
        self._background = background
        self._dashboard_shown = False
        self._printing_runs: set[str] = set()

    async def announce(self, loaded: Loaded, *, tolerant: bool) -> None:
        """Declare the graphs of code whose nodes are registered, and say what can be done.

        Args:
            loaded: The code.
            tolerant: Print that a graph is invalid, and go on: it will be fixed.

        Raises:
            GraphInvalid: a graph is invalid.
            ConfigurationError: the values for the first run do not fit.
            ManagerError: as its subclasses say.
        """
        before, first = self.known, self._first_run
        if first is not None:
            _check(loaded, first)
        async with self._manager(loaded.namespace) as manager:
            if before is None and (left := await unfinished(manager)):
                print_message(f"not finished earlier, and continued: {left}")
            for line in messages.runtime(loaded, before):
                print_message(line)
            valid = [graph for graph in loaded.graphs if await self._declare(manager, graph, tolerant)]
            for line in (line for graph in valid for line in messages.missing_nodes(graph, loaded)):
                print_message(line)
            self.show_dashboard(loaded)
            if before is None:
                for line in messages.how_to_start(self._address, loaded):
                    print_message(line)
            self.known = loaded
            if loaded.namespace not in self._printing_runs:
                self._printing_runs.add(loaded.namespace)
                await self._background.start(self._print_run_events, loaded.namespace)
            if first is not None and (graph := _graph_of(loaded, first)) in valid:
                self._first_run = None
                await start_run(manager, graph.name, first.inputs, first.store)

    def show_dashboard(self, loaded: Loaded | None) -> None:
        """Print once how to open the dashboard, and open it with --open."""
        if self._dashboard_shown:
            return
        self._dashboard_shown = True
        to = messages.page_of(loaded)
        for line in messages.dashboard(self._address, self._served.sign_in_link(to)):
            print_message(line)
        if self._page is not None:
            self._background.start_soon(_open, self._page, self._served.sign_in_link(to))

    async def print_unfinished(self) -> None:
        """Print which runs continue when ``dev`` is started again."""
        if self.known is not None:
            async with self._manager(self.known.namespace) as manager:
                if left := await unfinished(manager):
                    print_message(f"not finished: {left}; dev continues when it is started again")

    async def _declare(self, manager: StateManager, graph: DeclaredGraph, tolerant: bool) -> bool:
        """Create or replace a graph; return whether it is valid."""
        body = GraphBody.model_validate(graph.body)
        try:
            await Draft(Locator(self._path, graph.name), body).declare(manager, VALIDATION)
        except GraphInvalid as error:
            if not tolerant:
                raise
            print_message(f"error: {error}")
            print_message(await _standing(manager, graph.name))
            return False
        return True

    async def _print_run_events(
        self, namespace: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with self._manager(namespace) as manager:
            await print_run_events(manager, task_status=task_status)

    def _manager(self, namespace: str) -> StateManager:
        return StateManager(namespace, transport=self._served.transport)


async def _open(page: Path, link: str) -> None:
    try:
        write_redirect(page, link)
        opened = await open_in_browser(page.as_uri())
    except ExotrioError as error:
        print_message(f"error: {error}")
        opened = False
    if not opened:
        print_message("no browser could be opened: open the link yourself")


def _check(loaded: Loaded, first: FirstRun) -> None:
    """Refuse values that do not fit the graph."""
    graph = _graph_of(loaded, first)
    body = GraphBody.model_validate(graph.body)
    try:
        check_run_values(graph.name, body.nodes, body.store_config, first.inputs, first.store)
    except click.UsageError as error:
        # An exotrio error leaves nurseries without the group around it.
        raise ConfigurationError(error.format_message()) from error


def _graph_of(loaded: Loaded, first: FirstRun) -> DeclaredGraph:
    names = [graph.name for graph in loaded.graphs]
    if first.graph is not None:
        if first.graph not in names:
            raise ConfigurationError(
                f"the code has no graph {first.graph!r}{meant(first.graph, names)}",
                where="asked for with --graph",
                fix=f"it has: {listed(names)}",
            )
        return loaded.graphs[names.index(first.graph)]
    if len(names) != 1:
        raise ConfigurationError(
            f"the code has {len(names) or 'no'} graphs to start a run of",
            where=", ".join(names),
            fix="name one with --graph NAME" if names else "write: graph = Graph('my-graph', nodes=[...])",
        )
    return loaded.graphs[0]


async def _standing(manager: StateManager, name: str) -> str:
    """Return what happens to a graph whose new version was refused or is invalid."""
    try:
        status = (await manager.get_graph(name))["validation_status"]
    except NotFound:
        return f"graph {name!r} was refused, so it does not exist"
    if status == ValidationStatus.VALID:
        return f"graph {name!r} stays as it was before"
    return f"graph {name!r} cannot be triggered until it is fixed; runs that have begun continue"
