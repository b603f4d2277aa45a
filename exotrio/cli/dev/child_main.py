"""The child process of ``dev``: it runs the user's code, follows orders, and never outlives ``dev``.

It loads the file, reports what is in it, and runs the Runtime until it is ordered to drain. A signal to the
whole process group (Ctrl-C at the terminal) has its usual effect; an order to the same effect adds nothing.
When ``dev`` ends, even by ``kill -9``, the stream of orders ends: then this process drains by itself, and
exits even if its nodes do not.
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
from exotrio.cli.dev import protocol
from exotrio.cli.dev.protocol import Order
from exotrio.cli.exit_codes import ABANDONED, INTERRUPTED, bare_errors, exit_code
from exotrio.cli.load import Loaded, TargetMissing, load, users_files, users_traceback
from exotrio.cli.terminal.logs import configure_logs
from exotrio.cli.terminal.output import flush_streams, prepare_streams
from exotrio.errors import ExotrioError
from exotrio.graph import Graph

log = logging.getLogger("exotrio.cli")

CHECK_INTERVAL = 1.0
"""Seconds between two checks for modules that were imported late."""
MARGIN = 3.0
"""Seconds that a drain may take beyond its limits, on a busy machine; then the process exits."""


class _Dev:
    """The command that started this process."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self.runtime: Runtime | None = None
        """Orders act on it; None while the code is loaded."""

    def send(self, message: protocol.Message) -> None:
        with suppress(OSError):  # dev has ended, which the listening thread handles
            self._stream.sendall(protocol.encode(message))

    def follow_orders(self) -> None:
        """Follow its orders from now on, in a thread."""
        # A daemon, since it waits for ever and must not hold up the end of the process.
        threading.Thread(target=self._listen, name="exotrio dev", daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError), self._stream.makefile("rb") as orders:
            for line in orders:
                self._execute(Order(line.decode().strip()))
        log.warning("the dev command has ended: this runtime drains and ends")
        self._execute(Order.DRAIN)
        grace = 0.0 if self.runtime is None else self.runtime.shutdown_grace
        time.sleep(deadlines.longest_stop(grace) + MARGIN)
        os._exit(ABANDONED)

    def _execute(self, order: Order) -> None:
        if self.runtime is None:
            # Still loading: nothing is claimed yet. A real signal also interrupts a blocking call.
            os.kill(os.getpid(), signal.SIGINT)
        elif order is Order.DRAIN:
            self.runtime.stop(why="dev")
        else:
            self.runtime.stop(0, why="dev")


def main() -> int:
    """Run it; the arguments are the number of a socket, the target and how often -v was given."""
    prepare_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a pipe may be read meanwhile
    descriptor, target, verbose = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    os.set_inheritable(descriptor, False)  # processes that nodes start must not keep it open
    dev = _Dev(socket.socket(fileno=descriptor))
    configure_logs(verbose=max(0, verbose - 1), quiet=verbose == 0)
    if not verbose:
        # A developer wants the tracebacks of nodes.
        logging.getLogger("exotrio.worker").setLevel(logging.INFO)
    try:
        dev.follow_orders()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        module = load(target)
        runtime = module.runtime()
        endpoint, _ = resolve_endpoint(None, None)
        runtime.show_tasks()
        dev.send(_loaded(module, runtime))
        dev.runtime = runtime
        with ambient_endpoint(endpoint):
            return run_blocking(lambda: _run(runtime, dev), lambda grace, why: runtime.stop(grace, why=why))
    except ExotrioError as error:
        dev.send(_failed(error))
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left to interrupt
        flush_streams()


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
                dev.send(protocol.Registered())
            await _report_files(dev)
    return code


async def _report_files(dev: _Dev) -> None:
    """Report modules that were imported late, for example by nodes as they run. Never returns."""
    count = len(sys.modules)
    while True:
        await trio.sleep(CHECK_INTERVAL)
        if len(sys.modules) != count:
            count = len(sys.modules)
            dev.send(protocol.MoreFiles(users_files()))


def _loaded(module: Loaded, runtime: Runtime) -> protocol.Loaded:
    return protocol.Loaded(
        namespace=runtime.namespace,
        runtime=runtime.name,
        worker_id=runtime.worker_id,
        nodes=[node.__name__ for node in runtime.nodes],
        graphs=[
            protocol.DeclaredGraph(graph.name, GraphBody.of(graph).model_dump(mode="json"))
            for graph in module.all_of(Graph)
        ],
        files=users_files(),
        grace=runtime.shutdown_grace,
    )


def _failed(error: ExotrioError) -> protocol.Failed:
    cause = None if error.__cause__ is None else first_leaf(error.__cause__)
    text = str(error)
    missing = isinstance(error, TargetMissing)
    if cause is not None and not missing and not isinstance(cause, ExotrioError | ValidationError):
        # The user's code raised: its traceback says more than a hint.
        text = f"{error.what}\n{users_traceback(error)}".rstrip("\n")
    return protocol.Failed(text, exit_code(error), missing, users_files(error))


if __name__ == "__main__":
    sys.exit(main())
