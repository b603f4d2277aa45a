"""The process in which ``dev`` runs the user's code: a worker that obeys ``dev``, and never outlives it.

It loads the file, tells what is in it, and runs the Runtime until it is told to drain. Signals that
the whole group gets (a Ctrl-C at the terminal) mean what they mean everywhere, and change nothing
about an order to the same effect. If ``dev`` is gone, even by ``kill -9``, the stream of orders ends:
then it drains by itself, and exits whatever its nodes do.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress

import trio
from pydantic import ValidationError

from exotrio._http.endpoint import ambient_endpoint, resolve_endpoint
from exotrio._runtime.entry import run_blocking
from exotrio._runtime.lifecycle import Phase
from exotrio._runtime.runtime import Runtime
from exotrio._util import deadlines
from exotrio._util.exceptions import first_leaf
from exotrio._wire.graphs import GraphBody
from exotrio.cli.dev.protocol import (
    DeclaredGraph,
    Failed,
    Loaded,
    Message,
    MoreFiles,
    Order,
    Registered,
    encode,
)
from exotrio.cli.exit_codes import ABANDONED, INTERRUPTED, bare_errors, exit_code
from exotrio.cli.load import Loaded as Module
from exotrio.cli.load import TargetMissing, load, users_files, users_traceback
from exotrio.cli.terminal.logs import configure_logs
from exotrio.cli.terminal.output import prepare_streams, settle
from exotrio.errors import ExotrioError

log = logging.getLogger("exotrio.cli")

LOOK = 1.0
"""Seconds between two looks for modules that were imported late."""
MARGIN = 3.0
"""Seconds that a drain may take beyond its bounds, on a busy machine; then its end is forced."""


class _Dev:
    """The command that started this process."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._runtime: Runtime | None = None

    def tell(self, message: Message) -> None:
        """Send a message."""
        with suppress(OSError):  # it is gone; the thread that listens sees to that
            self._stream.sendall(encode(message))

    def heed(self) -> None:
        """Obey its orders from now on, in a thread of its own."""
        # A daemon: it waits for ever, and for the end of the process it counts as nothing.
        threading.Thread(target=self._listen, name="exotrio dev", daemon=True).start()

    def rules(self, runtime: Runtime) -> None:
        """Let the orders be about this runtime."""
        self._runtime = runtime

    def _listen(self) -> None:
        with suppress(OSError), self._stream.makefile("rb") as orders:
            for line in orders:
                self._obey(Order(line.decode().strip()))
        log.warning("the dev command has ended; this runtime ends too")
        self._obey(Order.DRAIN)
        grace = 0.0 if self._runtime is None else self._runtime.shutdown_grace
        time.sleep(deadlines.longest_stop(grace) + MARGIN)
        os._exit(ABANDONED)

    def _obey(self, order: Order) -> None:
        if self._runtime is None:
            # Still loading: nothing is held yet. A real signal, since it also wakes up whatever waits.
            os.kill(os.getpid(), signal.SIGINT)
        elif order is Order.DRAIN:
            self._runtime.stop(why="dev")
        else:
            self._runtime.stop(0, why="dev")


def main() -> int:
    """Run it; the arguments are the number of a socket, the target and how often -v was given."""
    prepare_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a pipe is looked at too while this goes on
    descriptor, target, verbose = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    os.set_inheritable(descriptor, False)  # no process that a node starts is to keep it open
    dev = _Dev(socket.socket(fileno=descriptor))
    configure_logs(verbose=max(0, verbose - 1), quiet=verbose == 0)
    if not verbose:
        # Tracebacks of nodes belong on a developer's screen.
        logging.getLogger("exotrio.worker").setLevel(logging.INFO)
    try:
        dev.heed()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        module = load(target)
        runtime = module.runtime()
        endpoint, _ = resolve_endpoint(None, None)
        runtime.show_tasks()
        dev.tell(_loaded(module, runtime))
        dev.rules(runtime)
        with ambient_endpoint(endpoint):
            return run_blocking(lambda: _run(runtime, dev), lambda grace, why: runtime.stop(grace, why=why))
    except ExotrioError as error:
        dev.tell(_failed(error))
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # at the end there is nothing left to interrupt
        settle()


async def _run(runtime: Runtime, dev: _Dev) -> int:
    code = ABANDONED

    async def work(task_status: trio.TaskStatus[Runtime]) -> None:
        nonlocal code
        code = (await runtime.run(task_status=task_status)).exit_code
        nursery.cancel_scope.cancel()

    with bare_errors():
        async with trio.open_nursery() as nursery:
            await nursery.start(work)
            if runtime.phase is Phase.RUNNING:
                dev.tell(Registered())
            await _tell_files(dev)
    return code


async def _tell_files(dev: _Dev) -> None:
    """Tell when further modules were imported: nodes may do that when they run. Never returns."""
    count = len(sys.modules)
    while True:
        await trio.sleep(LOOK)
        if len(sys.modules) != count:
            count = len(sys.modules)
            dev.tell(MoreFiles(users_files()))


def _loaded(module: Module, runtime: Runtime) -> Loaded:
    return Loaded(
        namespace=runtime.namespace,
        runtime=runtime.name,
        worker_id=runtime.worker_id,
        nodes=[node.__name__ for node in runtime.nodes],
        graphs=[
            DeclaredGraph(graph.name, GraphBody.of(graph).model_dump(mode="json"))
            for graph in module.graphs()
        ],
        files=users_files(),
        grace=runtime.shutdown_grace,
    )


def _failed(error: ExotrioError) -> Failed:
    cause = None if error.__cause__ is None else first_leaf(error.__cause__)
    text = str(error)
    missing = isinstance(error, TargetMissing)
    if cause is not None and not missing and not isinstance(cause, ExotrioError | ValidationError):
        # The user's code crashed: where says more than what could be done about it.
        text = f"{error.what}\n{users_traceback(error)}".rstrip("\n")
    return Failed(text, exit_code(error), missing, users_files(error))


if __name__ == "__main__":
    sys.exit(main())
