"""One run of a graph in this process, from its trigger to its result: what the command ``run`` does."""

from __future__ import annotations

import math
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import trio

from exotrio import Runtime
from exotrio._http.endpoint import EMBEDDED_URI, Endpoint, ambient_endpoint
from exotrio._nodes.checks import declare
from exotrio._shared.settings import read_settings
from exotrio._util.database_url import shown_database
from exotrio._util.words import harmless, plural
from exotrio.cli.exit_codes import FAILED, INTERRUPTED, SUCCESS, WAITING, bare_errors
from exotrio.cli.folder import MEMORY
from exotrio.cli.lookup import find_run, list_runs
from exotrio.cli.program import command_line
from exotrio.cli.runs.remote import check_of_values, is_new
from exotrio.cli.runs.result import print_result
from exotrio.cli.runs.waiting import find_waits, waiting_lines
from exotrio.cli.terminal.progress import Progress
from exotrio.client import EventWait, Run, RunStatus, RunSummary, StateManager, StateStatus
from exotrio.errors import GraphInvalid, NotFound
from exotrio.graph import WITHOUT_RUNTIME, Graph, split_name

MAX_POLL_INTERVAL = 0.1
"""Seconds between two polls of the run's counts, which cost the same for a run of any size."""
CHECK_INTERVAL = 1.0
"""Seconds between two looks at the runs below one that only waits for them: those may go on."""
MAX_LEFTOVERS = 5
"""Maximum of earlier unfinished runs that are named."""
REFRESH = 0.5
"""Seconds between two updates of the progress that nodes report."""


@dataclass(kw_only=True, eq=False)
class LocalRun:
    """One run of the command ``run``.

    Attributes:
        graph: None to continue the run ``resume``.
        others: The graphs of the file. An embedded state manager gets those that the Runtime can run, too,
            since nodes may call them; any other one just those that ``graph`` names.
        port: Port to serve the embedded state manager on, 0: any free port; None: do not serve it.
        progress: Shows the run, and prints messages about it.
        waits: Whether to stay while everything that is left of the run waits for events.
        private: Whether only the user sees the messages, so that they may have links that sign in.

    Raises:
        ConfigurationError: inputs or store do not fit the graph and its nodes.
    """

    target: str
    runtime: Runtime
    graph: Graph | None
    others: Sequence[Graph]
    inputs: dict[str, str]
    store: dict[str, str]
    key: str | None
    db: str | None
    resume: str | None
    output: str
    port: int | None
    waits: bool
    progress: Progress
    private: bool

    def __post_init__(self) -> None:
        graph = self.graph
        if graph is not None:
            namespace = self.runtime.namespace
            schemas = {(namespace, node.__name__): declare(node).inputs_schema for node in self.runtime.nodes}
            check_of_values(graph.name, graph.nodes, graph.store_config, schemas)(self.inputs, self.store)
        self._db_option = ["--db", self.db] if self.db else []
        self._run_id = self.resume
        self._may_have_begun = self._had_failed = False
        self._waits_for: list[tuple[RunSummary, EventWait]] = []
        self._adopt(None if self.graph is None else self.graph.version)
        self._embedded = False
        self._opening: trio.CancelScope | None = trio.CancelScope()
        self._preparing = trio.CancelScope()

    def stop(self, grace: float | None, why: str) -> None:
        """Called at a first signal with None, at a second one with 0, once the runtime was asked to stop."""
        if self._opening is not None:
            # The signal came while the database is being opened, or waited for: there is nothing to drain.
            self._opening.cancel()
            return
        # It came later: requests before the run are not waited for; the runtime drains.
        self._preparing.cancel()
        if grace is None and self._run_id is not None:
            self.progress.print_message("stopping: running nodes may finish; Ctrl-C again cancels them")

    def exiting(self) -> str:
        """Called from the signal handler just before the process exits; return how to continue the run."""
        self.progress.restore_terminal()
        kept = "nodes are cut off, and run again" if self._embedded else "states may stay claimed"
        return harmless(self._how_to_continue(kept))

    async def main(self) -> int:
        assert self._opening is not None, "it runs once"
        with bare_errors(), self._opening:
            return await self._open_and_follow()
        self.progress.print_message(self._how_to_continue())
        return INTERRUPTED

    async def _open_and_follow(self) -> int:
        async with AsyncExitStack() as stack:
            settings = read_settings()
            shown = settings.state_manager_uri
            if self.db is not None or shown is None:
                # Here, since a run at a URI embeds no state manager.
                from exotrio.manager.database import choose_database

                db = choose_database(self.db, settings)
                shown = shown_database(db)
                endpoint = await stack.enter_async_context(self._embed(db))
                stack.enter_context(ambient_endpoint(endpoint))
                self._embedded = True
            elif self.port is not None:
                raise click.UsageError(
                    f"--serve serves the embedded state manager, and this run's is {shown}, from "
                    "EXOSPHERE_STATE_MANAGER_URI; give --db FILE too, or use the dashboard of that one"
                )
            self._opening = None
            client = await stack.enter_async_context(StateManager(self.runtime.namespace))
            # Before the runtime, which waits for a state manager that is not reachable.
            with self._preparing:
                await self._prepare(client, shown)
            self.runtime.work_on(partial(self._find_run, client))
            return await self._follow(client)

    @asynccontextmanager
    async def _embed(self, db: str | Path) -> AsyncIterator[Endpoint]:
        """Run the embedded state manager, without schedules: their runs would not be executed.

        Its endpoint has the URI under which it is served, for links that nodes make."""
        if self.port is None:
            from exotrio.manager import embedded  # here, as above

            async with embedded(db, schedules=False) as transport:
                yield Endpoint(EMBEDDED_URI, None, transport)
            return
        # Here, since only --serve needs them.
        from exotrio.cli.terminal.browser import shown_link, sign_in_page
        from exotrio.manager.serving import embedded_and_served

        async with embedded_and_served(db, ports=(self.port,), schedules=False) as served:
            with sign_in_page(db) as page:
                link = shown_link(await served.sign_in_link(), page, private=self.private)
                self.progress.print_message(f"dashboard, to be opened once within 10 minutes: {link}")
                yield Endpoint(served.url, None, served.transport)

    async def _prepare(self, client: StateManager, shown: str) -> None:
        """Fail early if the state manager is not reachable, refuses the key, or does not know the run.

        ``shown`` is its address or database, for messages.
        """
        if self._run_id is not None:
            try:
                run = await find_run(client, self._run_id)
            except NotFound as error:
                raise NotFound(
                    f"{error.what} in namespace {self.runtime.namespace!r}",
                    where=f"looked up in {shown} because of --resume",
                    fix=f"{error.fix or 'name the run'}; with the --db that it began with",
                ) from error
            self._run_id = run.run_id
            self._had_failed = run.status is RunStatus.FAILED
            self._adopt(next(filter(None, (split_name(node.node_name)[1] for node in run.nodes)), None))
            self._require_nodes_of(run)
            return
        if not self._embedded:
            await client.runs(1, 1)  # only a check: unfinished runs of others are not reported
            return
        runs, more = await list_runs(client, None, RunStatus.PENDING, MAX_LEFTOVERS)
        if self.key is not None:
            runs = [run for run in runs if run.key != self.key]  # perhaps this one
        if runs:
            self.progress.print_message(self._about_leftovers(runs, more))

    async def _follow(self, client: StateManager) -> int:
        following = trio.CancelScope()
        run: Run | None = None
        results = sys.stdout

        async def work(task_status: trio.TaskStatus[Runtime]) -> None:
            try:
                await self.runtime.run(task_status=task_status)
            finally:
                # A drained runtime executes nothing more of the run.
                following.cancel()

        with redirect_stdout(sys.stderr if self.output == "json" else results):  # here nodes print
            async with trio.open_nursery() as nursery:
                await nursery.start(work)
                if self._run_id is not None:
                    with self.progress, following:
                        async with trio.open_nursery() as refreshing:
                            refreshing.start_soon(self._refresh)
                            run = await self._wait(client, self._run_id)
                            refreshing.cancel_scope.cancel()
                    self.runtime.stop(why="the end of the run")
                    if run is not None:
                        # Before the drain, in which nodes of other runs may still finish (through v0).
                        with redirect_stdout(results):
                            await print_result(client, run, self.output, self.progress.elapsed)
                        if run.status is RunStatus.PENDING:
                            then = "it was kept in memory only, so it is gone; --wait stays"
                            if self.db != MEMORY:
                                then = f"then: {self._command_to_resume(run.run_id, self.target)}"
                            answer = self._how_to_answer(run.run_id)
                            self.progress.print_message("\n".join([*answer, then]))
                        if self._embedded and self.private and self.db != MEMORY and self.output == "table":
                            again = command_line(["ui", *self._db_option])
                            self.progress.print_message(f"see it again with: {again}")
        if run is None:
            self.progress.print_message(self._how_to_continue(self._what_is_kept()))
            return INTERRUPTED
        if run.status is RunStatus.PENDING:
            return WAITING
        if run.status is RunStatus.FAILED and run.cancelled_at is None and self.db != MEMORY:
            self.progress.print_message(self._how_to_retry(run.run_id))
            if (other := self._started_by_failing(run)) is not None:
                dev = command_line(["dev", self.target, *self._db_option])
                self.progress.print_message(f"it starts a run of graph {other!r}, executed by:\n  {dev}")
        return SUCCESS if run.status is RunStatus.SUCCESS else FAILED

    async def _wait(self, client: StateManager, run_id: str) -> Run:
        """Return the run once it has ended, or only waits for events and is not to be waited for."""
        last: list[Run] = []

        def show(run: Run) -> None:
            last[:] = [run]
            self.progress.show(run)
            if run.word == "waiting" and examined is None:
                waiting.cancel()

        examined: Run | None = None
        while not self._waits_for:
            with trio.move_on_after(math.inf if examined is None else CHECK_INTERVAL) as waiting:
                return await client.wait(run_id, poll_interval=MAX_POLL_INTERVAL, on_progress=show)
            examined = last[0] if last[0].word == "waiting" else None
            self._waits_for = [] if examined is None else await find_waits(client, examined)
        if not self.waits:
            return last[0]
        self.progress.print_message("\n".join(self._how_to_answer(run_id)))
        return await client.wait(run_id, poll_interval=MAX_POLL_INTERVAL, on_progress=self.progress.show)

    async def _refresh(self) -> None:
        # The progress of nodes changes without the counts of the run.
        while True:
            await trio.sleep(REFRESH)
            self.progress.refresh()

    def _adopt(self, version: str | None) -> None:
        """Let the Runtime here have the version that its run needs, unless it names one."""
        if version is not None and self.runtime.version is None:
            self.runtime.adjust(version=version)
        self._version = version

    async def _find_run(self, client: StateManager) -> str:
        """Return the id of the run, once the nodes are registered; start it, unless it exists."""
        if self._run_id is not None:
            if self._version is not None and self._version != self.runtime.version:
                await client.repin(self._run_id, to=str(self.runtime.version))
            return self._run_id
        assert self.graph is not None
        refused = list[Graph]()
        # In the order of the file, in which each comes after those that it names.
        for graph in [*self.graph.named_graphs(), *(self.others if self._embedded else ())]:
            if graph.name != self.graph.name and not self._missing_nodes(graph):
                try:
                    await client.upsert_graph(graph)
                except GraphInvalid:
                    refused.append(graph)  # perhaps since it names that of the run
        await client.upsert_graph(self.graph)
        for graph in refused:
            try:
                await client.upsert_graph(graph)
            except GraphInvalid as error:
                self.progress.print_message(f"graph {graph.name!r} was refused and cannot be called: {error}")
        if self._embedded:
            self._require_nodes(self.graph)
        self._may_have_begun = True
        reply = await client.trigger(self.graph.name, inputs=self.inputs, store=self.store, key=self.key)
        run_id: str = reply["run_id"]
        self._run_id = run_id
        # Without a key, a run that existed was started by the first of two equal requests.
        existed_before = self.key is not None and not is_new(reply)
        existed = f", which has the key {self.key!r} and existed already" if existed_before else ""
        self.progress.print_message(f"run {run_id} of graph {self.graph.name!r}{existed}")
        if existed_before:
            run = await client.status(run_id)
            self._had_failed = run.status is RunStatus.FAILED
            if self._embedded:
                self._require_nodes_of(run)
        return run_id

    def _what_is_kept(self) -> str:
        """Return what is kept of an interrupted run, once the runtime has ended."""
        lost = self.runtime.summary.abandoned + self.runtime.summary.unknown
        if not lost:
            return "interrupted; everything is kept"
        what = f"the results of {plural(lost, 'state')} may not be stored, see the log"
        then = "these run again" if self._embedded else "these run again once their claims end"
        return f"interrupted; {what}: {then}; the rest is kept"

    def _how_to_continue(self, kept: str = "interrupted; everything is kept") -> str:
        if self._run_id is None and self._may_have_begun:
            return "interrupted; a run may have been started: see `runs ls`"
        if self._run_id is None:
            return "interrupted before the run began: nothing was started"
        if self.db == MEMORY:
            return "interrupted; the run was kept in memory only, so it is gone"
        command = self._command_to_resume(self._run_id, self.target)
        return f"{kept}. Continue with:\n  {command}"

    def _how_to_answer(self, run_id: str) -> list[str]:
        arguments = ["--namespace", self.runtime.namespace, *self._db_option]
        return waiting_lines(self._waits_for, run_id, arguments)

    def _how_to_retry(self, run_id: str) -> str:
        retry = ["runs", "retry", run_id, "--namespace", self.runtime.namespace]
        commands = [command_line([*retry, *self._db_option])]
        if self._embedded:
            commands.append(self._command_to_resume(run_id, self.target))
        before = "the run had failed before, and nothing ran now; " if self._had_failed else ""
        both = ", first retry it, then continue the run" if self._embedded else ""
        return "\n  ".join([f"{before}to run what failed again{both}:", *commands])

    def _started_by_failing(self, run: Run) -> str | None:
        """Return of which graph a run is started since this one failed, if no other runtime executes it."""
        if not self._embedded or self._had_failed:
            return None
        graphs = [self.graph, *self.others]
        return next((each.on_failure for each in graphs if each and each.name == run.graph_name), None)

    def _require_nodes(self, graph: Graph) -> None:
        """Refuse nodes that this Runtime lacks: an embedded state manager has no other runtime.

        The state manager itself accepts them if an earlier Runtime of this database had them.
        """
        known, namespace = [node.__name__ for node in self.runtime.nodes], self.runtime.namespace
        problems = self._missing_nodes(graph)
        if problems:
            what = f"graph {graph.name!r} has nodes that no Runtime here has"
            where = f"the Runtime has, in namespace {namespace!r}: {', '.join(known)}"
            fix = "add them to its nodes=[...], or change the graph"
            raise GraphInvalid(what, problems, where=where, fix=fix)

    def _missing_nodes(self, graph: Graph) -> list[str]:
        """Return which nodes of a graph this Runtime lacks."""
        known, namespace = [node.__name__ for node in self.runtime.nodes], self.runtime.namespace
        return [
            f"node {node.identifier!r} runs {node.node_name!r} of namespace {node.namespace!r}"
            for node in graph.nodes
            if node.node_name not in WITHOUT_RUNTIME
            and (node.namespace != namespace or node.node_name not in known)
        ]

    def _require_nodes_of(self, run: Run) -> None:
        """Refuse to continue a run that waits for nodes this Runtime lacks."""
        known = [node.__name__ for node in self.runtime.nodes]
        ended = {StateStatus.SUCCESS, StateStatus.PRUNED, StateStatus.RETRY_CREATED}
        problems = [
            f"node {node.identifier!r} runs {node.node_name!r}"
            for node in run.nodes
            if split_name(node.node_name)[0] not in (*known, *WITHOUT_RUNTIME) and node.counts.keys() - ended
        ]
        if problems and run.status is RunStatus.PENDING:
            what = f"run {run.run_id} waits for nodes that the Runtime in {self.target} lacks"
            fix = f"continue it with the file that has the graph {run.graph_name!r}"
            raise GraphInvalid(what, problems, where=f"it has: {', '.join(known)}", fix=fix)

    def _about_leftovers(self, runs: Sequence[RunSummary], more: bool) -> str:
        """Return a message about earlier unfinished runs, which this command does not continue."""
        assert self.graph is not None
        names = ", ".join(f"{run.run_id} of {run.graph_name!r}" for run in runs) + (", ..." if more else "")
        run_id = runs[0].run_id if len(runs) == 1 else "RUN"
        ours = all(run.graph_name == self.graph.name for run in runs)
        resume = self._command_to_resume(run_id, self.target if ours else "FILE")
        cancel = ["runs", "cancel", run_id, "--namespace", self.runtime.namespace, *self._db_option]
        return f"not finished earlier: {names}; to continue: {resume}; to end: {command_line(cancel)}"

    def _command_to_resume(self, run_id: str, target: str) -> str:
        """Return the command that continues a run; it can be copied, and works in the same folder."""
        command = ["run", target, *self._db_option]
        command += ["-o", self.output] if self.output != "table" else []
        command += ["--serve", str(self.port)] if self.port is not None else []
        return command_line([*command, "--resume", run_id])
