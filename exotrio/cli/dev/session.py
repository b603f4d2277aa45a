"""One call of ``dev``: a state manager, and one child process after another with the user's code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from exotrio._shared.settings import KEY_VARIABLE, URI_VARIABLE, read_settings
from exotrio.cli.dev import messages
from exotrio.cli.dev.announcer import Announcer, FirstRun
from exotrio.cli.dev.watcher import Watch, syntax_problem
from exotrio.cli.exit_codes import ABANDONED, FAILED, SUCCESS, bare_errors
from exotrio.cli.file_process import Failed, FileProcess, Loaded, MoreFiles, Order, Registered
from exotrio.cli.folder import MEMORY
from exotrio.cli.load import is_file, split_target
from exotrio.cli.terminal.browser import sign_in_page
from exotrio.cli.terminal.output import print_message
from exotrio.errors import DatabaseError
from exotrio.manager.database import choose_database
from exotrio.manager.engine.leases import Terms
from exotrio.manager.security.api_key import Key
from exotrio.manager.serving import Served, embedded_and_served

LEASE_TTL_MS = 15_000
"""Shorter than that of a server. Heartbeats come three times in it: they bring the progress of nodes to the
dashboard, and requests to drain to the runtime. No network can delay them, so no lease is lost by that."""
RELEASE_TIMEOUT = 5.0
"""Seconds for releasing the claims of a process that ended; their leases end in any case."""


class Child(FileProcess):
    """A process of ``dev``. It is in the foreground, so that ``breakpoint()`` works in a node.

    Attributes:
        was_replaced: It was ordered to drain because the code changed.
        claims: What became of its claims once it had ended, in words.
    """

    def __init__(self, target: str, *, uri: str, key: str, verbose: int) -> None:
        self.was_replaced = False
        self.claims = "its claims were released"
        options = ["--tasks", *["-v"] * verbose]
        super().__init__(target, uri=uri, key=key, options=options, foreground=True)

    @property
    def exit_code(self) -> int:
        """The exit code of ``dev``, if ``dev`` was stopped while this process ran."""
        if self.code == ABANDONED or self.was_killed:
            return ABANDONED
        # A process whose nodes were not yet registered held no claim.
        return ABANDONED if self.registered.is_set() and self.code != SUCCESS else SUCCESS

    @property
    def end_in_words(self) -> str:
        """How it ended without an order of ``dev``, and what became of its claims."""
        if self.code == SUCCESS:
            return "the runtime drained and ended, as requested by another command"
        if self.code == ABANDONED:
            return "the runtime ended and abandoned outcomes or claims; see the log above"
        return f"the runtime {self.ending}; {self.claims}"


@dataclass(kw_only=True, eq=False)
class Session:
    """One call of ``dev``."""

    target: str
    db: str | None
    ports: tuple[int, ...]
    """The state manager is served on the first free one."""
    open_browser: bool
    reload: bool
    first_run: FirstRun | None
    secrets: Mapping[str, str]
    """Of each graph, besides those in the code."""
    verbose: int
    """Number of options -v."""
    _child: Child | None = field(default=None, init=False)
    _order: Order | None = field(default=None, init=False)
    _stop_requested: trio.Event = field(default_factory=trio.Event, init=False)
    _opening: trio.CancelScope | None = field(default_factory=trio.CancelScope, init=False)
    """Cancelled by a stop until the state manager works; None from then on."""

    def __post_init__(self) -> None:
        self._path, _ = split_target(self.target)
        self._watch = Watch(Path(self._path).absolute().parent if is_file(self._path) else Path.cwd())

    # -- signals

    def stop(self, grace: float | None, why: str) -> None:
        """Called at a first signal with None, at a second one with 0."""
        is_first, self._order = self._order is None, Order("drain" if grace is None else "cancel", why)
        self._stop_requested.set()
        if self._opening is not None:
            # The session may be waiting for a database that cannot be reached.
            self._opening.cancel()
        if self._child is not None:
            if is_first and self._child.registered.is_set():
                print_message("stopping: running nodes may finish; Ctrl-C again cancels them")
            self._child.order(self._order)

    def exiting(self) -> str:
        """Called from the signal handler just before this process exits: no process may outlive it."""
        if self._child is not None:
            self._child.kill()
        return "nodes are cut off" + (
            ", and run again when dev is started again" if self.db != MEMORY else ""
        )

    # -- the state manager

    async def main(self) -> int:
        """Work until stopped; return the exit code.

        Raises:
            GraphInvalid, ConfigurationError: the code cannot be used, and --reload is not given.
            PortBusy, DatabaseBusy, DatabaseError: the state manager cannot be run.
        """
        settings = read_settings()
        if settings.state_manager_uri:
            print_message(f"{URI_VARIABLE} is set and not used: dev runs its own state manager")
        db = choose_database(self.db, settings)
        # The key is the one that clients read from the environment, so that the printed commands work.
        settings = replace(settings, state_manager_secret=None)
        terms = Terms(lease_ttl_ms=LEASE_TTL_MS)
        assert self._opening is not None, "it runs once"
        with bare_errors(), self._opening:
            async with embedded_and_served(db, ports=self.ports, terms=terms, settings=settings) as served:
                self._opening = None
                with _key_file(served.key) as key_file, sign_in_page(db) as page:
                    async with trio.open_nursery() as background:
                        announcer = Announcer(
                            path=self._path,
                            served=served,
                            key_file=key_file,
                            page=page,
                            opens=self.open_browser,
                            first_run=self.first_run,
                            secrets=self.secrets,
                            background=background,
                        )
                        print_message(f"loading {self._path}")
                        code = await self._work(served, announcer)
                        background.cancel_scope.cancel()
                if db != MEMORY:
                    await announcer.print_unfinished()
                return code
        return SUCCESS

    async def _work(self, served: Served, announcer: Announcer) -> int:
        """Run the code, again after each change, and return the exit code."""
        while not self._stop_requested.is_set():
            child = await self._run_once(served, announcer)
            if self._stop_requested.is_set():
                # The stop came while the process ran, or was being replaced.
                return child.exit_code
            if child.was_replaced:
                # It may have failed or ended by itself in the same moment; the new code counts.
                continue
            if (failed := child.failed) is not None:
                print_message(f"error: {failed.text}")
                if not self.reload or (failed.missing and announcer.known is None):
                    return failed.code
                await announcer.show_dashboard(None)
            else:
                print_message(child.end_in_words)
                if not self.reload and child.code not in (SUCCESS, ABANDONED):
                    return FAILED
            await self._until_changed()
        return SUCCESS

    async def _until_changed(self) -> None:
        """Wait until the code changes (with --reload) or a stop is requested."""
        async with trio.open_nursery() as nursery:
            if self.reload:
                print_message("waiting for a change of the code")

                async def wait_for_change() -> None:
                    print_message(messages.changed(await self._watch.change()))
                    nursery.cancel_scope.cancel()

                nursery.start_soon(wait_for_change)
            await self._stop_requested.wait()
            nursery.cancel_scope.cancel()

    # -- one process

    async def _run_once(self, served: Served, announcer: Announcer) -> Child:
        """Run the code in a process until it ends.

        Cancellation:
            The process is drained first, in limited time.
        """
        self._watch.begin()
        child = self._child = Child(self.target, uri=served.url, key=served.key.text, verbose=self.verbose)
        if self._order is not None:
            # The stop came while no process ran.
            child.order(self._order)
        background = [partial(self._replace_when_changed, child)] if self.reload else []
        try:
            await child.run(partial(self._handle, child, announcer), *background)
        finally:
            self._child = None
            if child.loaded is not None:
                try:
                    with trio.fail_after(RELEASE_TIMEOUT, shield=True):
                        await served.forget(child.loaded.namespace, child.loaded.worker_id)
                except (DatabaseError, trio.TooSlowError) as error:
                    why = error.what if isinstance(error, DatabaseError) else "they were not released in time"
                    child.claims = f"its claims hold until their leases end: {why}"
        if child.was_killed:
            print_message(f"the runtime did not end in time and was killed; {child.claims}")
        return child

    async def _handle(self, child: Child, announcer: Announcer, message: object) -> None:
        match message:
            case Loaded():
                self._watch.loaded(message.files)
                announcer.check_first_run(message)
            case MoreFiles():
                self._watch.add(message.files)
            case Failed():
                self._watch.failed(message.files)
            case Registered() if child.loaded is not None:
                await announcer.announce(child.loaded, tolerant=self.reload)

    async def _replace_when_changed(self, child: Child) -> None:
        while True:
            changed = await self._watch.change()
            problems = [
                f"error: {messages.shown(file)}: {problem}"
                for file in changed
                if (problem := syntax_problem(file))
            ]
            if not problems:
                break
            if child.loaded is not None:  # else loading will fail, and report why
                print_message("\n".join([*problems, messages.CONTINUES]))
        print_message(messages.changed(changed, drains=child.registered.is_set()))
        child.was_replaced = True
        child.order(Order("drain", "a change of the code"))


@contextmanager
def _key_file(key: Key) -> Iterator[Path | None]:
    """Provide the file that holds the key; None if commands read it from their environment."""
    if key.file is not None or key.source == KEY_VARIABLE:
        yield key.file
        return
    with TemporaryDirectory(prefix="exotrio-dev-") as folder:  # readable by its owner only
        file = Path(folder, "api-key")
        file.write_text(f"{key.text}\n", "utf-8")
        yield file
