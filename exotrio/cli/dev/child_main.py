"""The child process of ``dev``: it runs the user's code, follows orders, and never outlives ``dev``.

It loads the file, reports what is in it, and runs the Runtime until it is ordered to drain. Since it is in
the foreground, it also gets each signal to the whole process group (Ctrl-C at the terminal); the order that
``dev`` sends for the same signal then has no further effect.
"""

from __future__ import annotations

import io
import logging
import signal
import sys
from functools import partial

import trio
from pydantic import ValidationError

from exotrio import Runtime
from exotrio._http.endpoint import ambient_endpoint, resolve_endpoint
from exotrio._util.exceptions import first_leaf
from exotrio._wire.graphs import GraphBody
from exotrio.cli.dev import child
from exotrio.cli.exit_codes import INTERRUPTED, exit_code
from exotrio.cli.load import Loaded, TargetMissing, load, users_files, users_traceback
from exotrio.cli.parent_command import ParentCommand
from exotrio.cli.terminal.logs import configure_logs
from exotrio.cli.terminal.output import flush_streams, prepare_streams
from exotrio.errors import ExotrioError
from exotrio.graph import Graph

CHECK_INTERVAL = 1.0
"""Seconds between two checks for modules that were imported late."""


def main() -> int:
    """Run it; the arguments are the number of a socket, the target and the number of options -v."""
    prepare_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a pipe may be read meanwhile
    descriptor, target, verbose = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    dev = ParentCommand(descriptor, "the dev command")
    configure_logs(verbose=max(0, verbose - 1), quiet=verbose == 0)
    if not verbose:
        # For the tracebacks of nodes.
        logging.getLogger("exotrio.worker").setLevel(logging.INFO)
    try:
        dev.follow_orders()
        module = load(target)
        runtime = module.runtime()
        endpoint, _ = resolve_endpoint(None, None)
        runtime.show_tasks()
        dev.send(_loaded(module, runtime))
        with ambient_endpoint(endpoint):
            return dev.run(runtime, partial(_report_files, dev))
    except ExotrioError as error:
        dev.send(_failed(error))
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left to interrupt
        flush_streams()


async def _report_files(dev: ParentCommand) -> None:
    """Report modules that were imported late, for example by nodes as they run. Never returns."""
    count = len(sys.modules)
    while True:
        await trio.sleep(CHECK_INTERVAL)
        if len(sys.modules) != count:
            count = len(sys.modules)
            dev.send(child.MoreFiles(users_files()))


def _loaded(module: Loaded, runtime: Runtime) -> child.Loaded:
    return child.Loaded(
        # As str and float: to read a member of the user's enum, ``dev`` would have to load the user's code.
        namespace=str.__str__(runtime.namespace),
        runtime=str.__str__(runtime.name),
        worker_id=runtime.worker_id,
        nodes=[node.__name__ for node in runtime.nodes],
        graphs={graph.name: GraphBody.of(graph).model_dump(mode="json") for graph in module.all_of(Graph)},
        files=users_files(),
        grace=float(runtime.shutdown_grace),
    )


def _failed(error: ExotrioError) -> child.Failed:
    cause = None if error.__cause__ is None else first_leaf(error.__cause__)
    text = str(error)
    missing = isinstance(error, TargetMissing)
    if cause is not None and not missing and not isinstance(cause, ExotrioError | ValidationError):
        # The user's code raised: its traceback helps more than a hint.
        text = f"{error.what}\n{users_traceback(error)}".rstrip("\n")
    return child.Failed(text, exit_code(error), missing, users_files(error))


if __name__ == "__main__":
    sys.exit(main())
