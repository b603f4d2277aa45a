"""Declares the user's graphs at the state manager of ``dev``, and prints what happens there."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from exotrio._util.words import plural
from exotrio._wire.graphs import GraphBody
from exotrio.cli.dev import messages
from exotrio.cli.file_process import Loaded
from exotrio.cli.graphs.draft import Draft
from exotrio.cli.load import choose_graph
from exotrio.cli.runs.remote import check_of_values, start_run
from exotrio.cli.terminal.browser import open_signed_in, shown_link
from exotrio.cli.terminal.output import print_message
from exotrio.client import RunStatus, RunSummary, StateManager, ValidationStatus
from exotrio.errors import GraphInvalid, ManagerError, NotFound
from exotrio.manager.serving import Served

POLL_INTERVAL = 0.5
NEWEST = 20
"""Number of the newest runs that are read each time, and maximum of older unfinished ones."""
MAX_COUNTED = 1_000


@dataclass(frozen=True, slots=True)
class FirstRun:
    """The run that is started at once. If ``graph`` is None, the code must have exactly one graph."""

    graph: str | None
    inputs: Mapping[str, str]
    store: Mapping[str, str]
    key: str | None = None

    def graph_of(self, loaded: Loaded) -> str:
        """Return the name of its graph in the code.

        Raises:
            ModuleInvalid: there is none.
            ConfigurationError: the values do not fit it.
        """
        graph = choose_graph("the code", {name: name for name in loaded.graphs}, self.graph)
        body = GraphBody.model_validate(loaded.graphs[graph])
        schemas = {(loaded.namespace, node): models["Inputs"] for node, models in loaded.nodes.items()}
        check_of_values(graph, body.nodes, body.store_config, schemas)(self.inputs, self.store)
        return graph


@dataclass(kw_only=True, eq=False)
class Announcer:
    """Declares the graphs of the current code, and prints what can be done and what happens."""

    path: str
    """The file or module, for messages."""
    served: Served
    key_file: Path | None
    """Holds the API key; None if commands have it from their environment."""
    page: Path
    """File of the page that signs a browser in."""
    opens: bool
    """Whether a browser is opened."""
    first_run: FirstRun | None
    """Started once its graph is declared; None from then on."""
    secrets: Mapping[str, str]
    background: trio.Nursery
    """For tasks that run until the end."""
    known: Loaded | None = field(default=None, init=False)
    """The code that was announced last."""
    _dashboard_shown: bool = field(default=False, init=False)
    _printing_runs: set[str] = field(default_factory=set, init=False)

    def check_first_run(self, loaded: Loaded) -> None:
        """Refuse values for the first run that do not fit, as ``FirstRun.graph_of`` does."""
        if self.first_run is not None:
            self.first_run.graph_of(loaded)

    async def announce(self, loaded: Loaded, *, tolerant: bool) -> None:
        """Declare the graphs of code whose nodes are registered, and print what can be done.

        Raises:
            GraphInvalid: a graph is invalid; if ``tolerant``, that is printed instead.
            ConfigurationError: the values for the first run do not fit.
        """
        before, first = self.known, self.first_run
        first_graph = None if first is None else first.graph_of(loaded)
        async with self._manager(loaded.namespace) as manager:
            if before is None and (left := await _unfinished(manager)):
                print_message(f"not finished earlier, and continued: {left}")
            for line in messages.runtime(loaded, before):
                print_message(line)
            valid = [
                name
                for name, body in loaded.graphs.items()
                if await self._declare(manager, name, GraphBody.model_validate(body), tolerant)
            ]
            for line in (line for name in valid for line in messages.missing_nodes(name, loaded)):
                print_message(line)
            await self._repin(manager, loaded.version)
            await self.show_dashboard(loaded)
            if before is None:
                print_message(messages.how_to_start(self.served.url, self.key_file, loaded))
            self.known = loaded
            if loaded.namespace not in self._printing_runs:
                self._printing_runs.add(loaded.namespace)
                await self.background.start(self._print_run_events, loaded.namespace)
            if first is not None and first_graph is not None and first_graph in valid:
                self.first_run = None
                await start_run(manager, first_graph, first.inputs, first.store, key=first.key)

    async def show_dashboard(self, loaded: Loaded | None) -> None:
        """Print once how to open the dashboard, and open it with --open."""
        if self._dashboard_shown:
            return
        self._dashboard_shown = True
        to = messages.page_of(loaded)
        link = shown_link(await self.served.sign_in_link(to), self.page)
        print_message(messages.dashboard(self.served.url, self.key_file, link))
        if self.opens:
            self.background.start_soon(open_signed_in, self.page, await self.served.sign_in_link(to))

    async def print_unfinished(self) -> None:
        """Print which runs continue when ``dev`` is started again."""
        if self.known is not None:
            async with self._manager(self.known.namespace) as manager:
                if left := await _unfinished(manager):
                    print_message(f"not finished: {left}; start dev again to continue them")

    async def _declare(self, manager: StateManager, name: str, body: GraphBody, tolerant: bool) -> bool:
        """Create or replace a graph; return whether it is valid."""
        try:
            body = body.model_copy(update={"secrets": {**body.secrets, **self.secrets}})
            await Draft(self.path, name, body).declare(manager)
        except GraphInvalid as error:
            if not tolerant:
                raise
            print_message(f"error: {error}")
            print_message(await _graph_status(manager, name))
            return False
        return True

    async def _repin(self, manager: StateManager, version: str | None) -> None:
        """Let runs of earlier versions go on with this code, except those that another runtime serves."""
        for earlier in await manager.versions():
            if earlier.version == version or not earlier.runs:
                continue
            runs_of_it = f"{plural(earlier.runs, 'run')} of version {earlier.version}"
            if earlier.runtimes:
                print_message(f"{runs_of_it} left to the other runtimes of that version")
            elif version is None:
                print_message(f"warning: {runs_of_it} cannot continue: the code does not name a version")
            else:
                runs = await manager.repin_version(earlier.version, to=version)
                if runs.repinned:
                    moved = plural(len(runs.repinned), "run")
                    print_message(f"{moved} of version {earlier.version} continued with version {version}")
                for run in runs.refused:
                    print_message(f"warning: {run.reason}")

    async def _print_run_events(
        self, namespace: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Print a line for each run that begins or ends from now on. Never returns."""
        known: dict[str, RunStatus] | None = None
        async with self._manager(namespace) as manager:
            while True:
                try:
                    runs = await _fetch(manager, known or {})
                except ManagerError:
                    runs = []  # the state manager runs in this process, and has logged why
                if known is None:
                    known = {run.run_id: run.status for run in runs}
                    task_status.started()
                for run in reversed(runs):
                    before = known.get(run.run_id)
                    if before is None:
                        print_message(f"run {run.run_id} of graph {run.graph_name!r} began")
                    if run.status is not RunStatus.PENDING and before in (None, RunStatus.PENDING):
                        print_message(_ended(run))
                if runs:
                    known = {run.run_id: run.status for run in runs}
                await trio.sleep(POLL_INTERVAL)

    def _manager(self, namespace: str) -> StateManager:
        return StateManager(namespace, transport=self.served.transport)


async def _graph_status(manager: StateManager, name: str) -> str:
    """Return the status of a graph whose new version was refused or is invalid."""
    try:
        status = (await manager.get_graph(name))["validation_status"]
    except NotFound:
        return f"graph {name!r} was refused, so it does not exist"
    if status == ValidationStatus.VALID:
        return f"graph {name!r} stays as it was before"
    return f"graph {name!r} cannot be triggered until it is fixed; runs that have begun continue"


async def _unfinished(manager: StateManager) -> str:
    """Return how many runs of the namespace are not finished, as ``3 runs``; empty if none are."""
    page = await manager.find_runs(status=RunStatus.PENDING, limit=MAX_COUNTED)
    more = "more than " if page.next else ""
    return f"{more}{plural(len(page.runs), 'run')}" if page.runs else ""


async def _fetch(manager: StateManager, known: Mapping[str, RunStatus]) -> list[RunSummary]:
    """Return the newest runs, and some older ones that are not finished."""
    runs = (await manager.find_runs(limit=NEWEST)).runs
    newest = {run.run_id for run in runs}
    older = [run for run, status in known.items() if status is RunStatus.PENDING and run not in newest]
    for run_id in older[:NEWEST]:
        with suppress(NotFound):
            runs.append(await manager.status(run_id))
    return runs


def _ended(run: RunSummary) -> str:
    status = f"{run.status.value} ({run.word})" if run.cancelled_at else run.status.value
    failed = f", {run.errored_count} of them failed" if run.errored_count else ""
    took = "" if run.duration is None else f" in {run.duration:.1f} s"
    count = plural(run.total_count, "state")
    return f"run {run.run_id} of graph {run.graph_name!r}: {status}, {count}{failed}{took}"
