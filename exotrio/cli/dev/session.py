"""The life of ``dev``: the state manager stays, and one process after the other runs the user's code.

That code is never loaded in this process. So a reload leaves nothing of the old code behind, the port,
sign-ins and open pages outlive it, and code that crashes, even the interpreter, is a line on the screen.

The old runtime drains before the new code is loaded. Code that cannot be compiled is not even tried:
the runtime goes on as it was. Code that fails while it is loaded, or whose graph is invalid, is told;
then the next change is waited for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from exotrio._util.settings import KEY_VARIABLE, URI_VARIABLE, read_settings
from exotrio.cli.dev import messages
from exotrio.cli.dev.announcer import Announcer, FirstRun
from exotrio.cli.dev.child import Child
from exotrio.cli.dev.protocol import Failed, Loaded, Message, MoreFiles, Order, Registered
from exotrio.cli.dev.watcher import Watch, syntax_problem
from exotrio.cli.exit_codes import ABANDONED, FAILED, SUCCESS, bare_errors
from exotrio.cli.load import is_file
from exotrio.cli.terminal.browser import sign_in_page
from exotrio.cli.terminal.output import print_message
from exotrio.manager.engine.leases import Terms
from exotrio.manager.security.api_key import Key
from exotrio.manager.serving import Served, embedded_and_served
from exotrio.manager.store.sqlite.database import MEMORY

LEASE_TTL_MS = 15_000
"""Shorter than a server's: a third of it is how long the dashboard waits for what nodes say, and a
runtime for what is asked of it. No network is between them that could cost it a lease."""
FORGET = 5.0
"""Seconds for taking back what a process held; what it held has a lease in any case."""
LAST_WORDS = 1.0
"""Seconds for what a process that ended had still to say, should one that it started keep the stream open."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What ``dev`` is asked to do.

    Attributes:
        target: ``FILE_OR_MODULE[:ATTR]``.
        path: The same without the attribute.
        ports: The first free one is served on.
        opens: Open the dashboard in a browser.
        reloads: Load the code again when it changes.
        verbose: How often -v was given.
    """

    target: str
    path: str
    db: str
    ports: tuple[int, ...]
    opens: bool
    reloads: bool
    first_run: FirstRun | None
    verbose: int


class _Generation:
    """One process that runs the user's code, as far as it is known."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.code = SUCCESS
        self.loaded: Loaded | None = None
        self.failed: Failed | None = None
        self.works = False
        self.was_replaced = False
        self.heard = trio.Event()

    @property
    def exit_code(self) -> int:
        """What its end means for the command, if that was asked for."""
        if self.code == ABANDONED or self.child.was_killed:
            return ABANDONED
        # What ended, by whatever, before it worked held nothing.
        return ABANDONED if self.works and self.code != SUCCESS else SUCCESS


class Session:
    """One call of ``dev``."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        folder = Path(wanted.path).absolute().parent if is_file(wanted.path) else Path.cwd()
        self._watch = Watch(folder)
        self._generation: _Generation | None = None
        self._orders: list[Order] = []
        self._asked = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None

    # -- signals

    def stop(self, grace: float | None, why: str) -> None:
        """Called from the signal handler, first with None, then with 0."""
        self._orders.append(Order.DRAIN if grace is None else Order.CANCEL)
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._heed)

    def exiting(self) -> None:
        """Called from the signal handler just before this process exits: nothing is to outlive it."""
        if self._generation is not None:
            self._generation.child.kill()

    def _heed(self) -> None:
        generation, first = self._generation, not self._asked.is_set()
        self._asked.set()
        if generation is not None:
            if first and generation.works:
                print_message("stopping: running nodes may finish; Ctrl-C again cancels them")
            generation.child.tell(self._orders[-1])

    # -- the state manager

    async def main(self) -> int:
        """Work until stopped; return the exit code.

        Raises:
            GraphInvalid, ConfigurationError: the code cannot be used, and is not to be loaded again.
            PortBusy, DatabaseBusy, DatabaseError: the state manager cannot be run.
        """
        self._token = trio.lowlevel.current_trio_token()
        if self._orders:  # before there was a loop to tell
            self._heed()
        wanted = self._wanted
        settings = read_settings()
        if settings.state_manager_uri:
            print_message(f"{URI_VARIABLE} is set; dev uses a state manager of its own all the same")
        # The one key that clients look for too, so that commands need not be told another.
        settings = replace(settings, state_manager_secret=None)
        terms = Terms(lease_ttl_ms=LEASE_TTL_MS)
        with bare_errors():
            async with embedded_and_served(
                wanted.db, ports=wanted.ports, terms=terms, settings=settings
            ) as served:
                with _key_file(served.key) as key_file, sign_in_page(wanted.db) as page:
                    async with trio.open_nursery() as background:
                        announcer = Announcer(
                            wanted.path,
                            served,
                            key_file,
                            page=page if wanted.opens else None,
                            first_run=wanted.first_run,
                            background=background,
                        )
                        print_message(f"loading {wanted.path}")
                        code = await self._work(served, announcer)
                        background.cancel_scope.cancel()
                if wanted.db != MEMORY:
                    await announcer.print_unfinished()
                return code

    async def _work(self, served: Served, announcer: Announcer) -> int:
        """Run the code, again and again if need be, and return the exit code."""
        reloads = self._wanted.reloads
        while not self._asked.is_set():
            generation = await self._run_once(served, announcer)
            if self._asked.is_set():
                return generation.exit_code
            if generation.was_replaced:
                continue
            if (failed := generation.failed) is not None:
                print_message(f"error: {failed.text}")
                if not reloads or (failed.missing and announcer.known is None):
                    return failed.code
                announcer.show_dashboard(None)
            else:
                print_message(messages.end(generation.code))
                if not reloads and generation.code not in (SUCCESS, ABANDONED):
                    return FAILED
            await self._until_changed()
        return SUCCESS

    async def _until_changed(self) -> None:
        """Wait for a change of the code, if it may be loaded again, or for the end."""
        async with trio.open_nursery() as nursery:
            if self._wanted.reloads:
                print_message("waiting for a change of the code")

                async def look() -> None:
                    print_message(messages.changed(await self._watch.change()))
                    nursery.cancel_scope.cancel()

                nursery.start_soon(look)
            await self._asked.wait()
            nursery.cancel_scope.cancel()

    # -- one process

    async def _run_once(self, served: Served, announcer: Announcer) -> _Generation:
        """Run the code in a process until that ends.

        Cancellation:
            The process is drained first, in bounded time.
        """
        self._watch.begin()
        child = Child.start(
            self._wanted.target, uri=served.url, key=served.key.text, verbose=self._wanted.verbose
        )
        generation = self._generation = _Generation(child)
        try:
            if self._asked.is_set():
                self._heed()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, generation, announcer)
                if self._wanted.reloads:
                    nursery.start_soon(self._replace_when_changed, generation)
                generation.code = await child.wait()
                with trio.move_on_after(LAST_WORDS):
                    await generation.heard.wait()
                nursery.cancel_scope.cancel()
        finally:
            await child.aclose()
            self._generation = None
            if generation.loaded is not None:
                with trio.move_on_after(FORGET, shield=True):
                    await served.forget(generation.loaded.namespace, generation.loaded.worker_id)
        if child.was_killed:
            print_message("the runtime did not end in time and was killed; what it held is taken back")
        return generation

    async def _listen(self, generation: _Generation, announcer: Announcer) -> None:
        async def heed(message: Message) -> None:
            if isinstance(message, Loaded):
                generation.loaded = message
                generation.child.grace = message.grace
                self._watch.loaded(message.files)
            elif isinstance(message, MoreFiles):
                self._watch.add(message.files)
            elif isinstance(message, Failed):
                generation.failed = message
                self._watch.failed(message.files)
            elif isinstance(message, Registered) and generation.loaded is not None:
                generation.works = True
                await announcer.announce(generation.loaded, tolerant=self._wanted.reloads)

        await generation.child.listen(heed)
        generation.heard.set()

    async def _replace_when_changed(self, generation: _Generation) -> None:
        while True:
            changed = await self._watch.change()
            problems = [
                f"error: {messages.shown(file)}: {problem}"
                for file in changed
                if (problem := syntax_problem(file))
            ]
            if not problems:
                break
            if generation.loaded is not None:  # else it will fail by itself, and say why
                print_message("\n".join([*problems, messages.GOES_ON]))
        print_message(messages.changed(changed, drains=generation.works))
        generation.was_replaced = True
        generation.child.tell(Order.DRAIN)


@contextmanager
def _key_file(key: Key) -> Iterator[Path | None]:
    """Give the file that holds the key; None if commands have it from their environment."""
    if key.file is not None or key.source == KEY_VARIABLE:
        yield key.file
        return
    with TemporaryDirectory(prefix="exotrio-dev-") as folder:  # readable by its owner only
        file = Path(folder, "api-key")
        file.write_text(f"{key.text}\n", "utf-8")
        yield file
