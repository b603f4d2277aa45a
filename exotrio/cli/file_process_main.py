"""The child process of ``dev`` and of ``rehearse``: it runs the user's code, follows orders, and never
outlives the command that started it.

It loads the file, reports what is in it, and runs the Runtime until it is ordered to drain, or a signal
comes. If it is in the foreground, it also gets each signal to the whole process group (Ctrl-C at the
terminal); the order that the command sends for the same signal then has no further effect.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import time
from argparse import ArgumentParser
from functools import partial

import trio
from pydantic import ValidationError

from exotrio import Runtime
from exotrio._http.endpoint import ambient_endpoint, resolve_endpoint
from exotrio._nodes.checks import models_of
from exotrio._shared.events import CheckpointStored, Event, StateBegan, StateEnded
from exotrio._util.exceptions import first_leaf
from exotrio._wire.graphs import GraphBody
from exotrio.cli.exit_codes import INTERRUPTED, exit_code
from exotrio.cli.file_process import Failed, Loaded, MoreFiles
from exotrio.cli.load import Loaded as Module
from exotrio.cli.load import TargetMissing, load_in_child, users_files, users_traceback
from exotrio.cli.parent_command import ParentCommand
from exotrio.cli.terminal.logs import configure_logs
from exotrio.cli.terminal.output import flush_streams, prepare_streams
from exotrio.errors import ExotrioError
from exotrio.graph import Graph

CHECK_INTERVAL = 1.0
"""Seconds between two checks for modules that were imported late."""


def main() -> int:
    """Run it; see ``_parser`` for the arguments."""
    prepare_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a pipe may be read meanwhile
    options = _parser().parse_args()
    if options.journal:
        os.dup2(2, 1)  # standard output is for the report, and has nothing that nodes or their programs print
    command = ParentCommand(options.socket)
    configure_logs(verbose=max(0, options.verbose - 1), quiet=options.verbose == 0)
    if options.tasks and not options.verbose:
        # For the tracebacks of nodes.
        logging.getLogger("exotrio.worker").setLevel(logging.INFO)
    try:
        command.follow_orders()
        module = load_in_child(options.target)
        runtime = module.runtime()
        endpoint, _ = resolve_endpoint(None, None)
        if options.tasks:
            runtime.show_tasks()
        if options.journal:  # of a rehearsal, whose faults make warnings
            logging.getLogger("exotrio").setLevel(logging.INFO if options.verbose else logging.CRITICAL)
            runtime.observe(partial(_journal, command))
        versions = {graph.version for graph in module.all_of(Graph)} - {None}
        if runtime.version is None and len(versions) == 1:
            runtime.adjust(version=versions.pop())
        runtime.adjust(outbox=options.outbox)
        command.send(_loaded(module, runtime))
        with ambient_endpoint(endpoint):
            return command.run(runtime, partial(_report_files, command))
    except ExotrioError as error:
        command.send(_failed(error))
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left to interrupt
        flush_streams()


def _parser() -> ArgumentParser:
    parser = ArgumentParser()
    parser.add_argument("socket", type=int, help="number of the socket to the command")
    parser.add_argument("target", help="file or module")
    parser.add_argument("-v", dest="verbose", action="count", default=0)
    parser.add_argument(
        "--tasks", action="store_true", help="show tasks to the state manager, and tracebacks"
    )
    parser.add_argument("--journal", action="store_true", help="send when each execution begins and ends")
    parser.add_argument("--outbox", help="file for the outbox, if the Runtime has one")
    return parser


def _journal(command: ParentCommand, event: Event) -> None:
    # Sent before the node begins: a message in the socket is not lost when this process is killed.
    if isinstance(event, StateBegan | StateEnded | CheckpointStored):
        command.send((time.monotonic(), event))


async def _report_files(command: ParentCommand) -> None:
    """Report modules that were imported late, for example by nodes as they run. Never returns."""
    count = len(sys.modules)
    while True:
        await trio.sleep(CHECK_INTERVAL)
        if len(sys.modules) != count:
            count = len(sys.modules)
            command.send(MoreFiles(users_files()))


def _loaded(module: Module, runtime: Runtime) -> Loaded:
    return Loaded(
        # As str and float: to read a member of the user's enum, the command would have to load the code.
        namespace=str.__str__(runtime.namespace),
        runtime=str.__str__(runtime.name),
        worker_id=runtime.worker_id,
        nodes={node.__name__: models_of(node) for node in runtime.nodes},
        graphs={graph.name: GraphBody.of(graph).model_dump(mode="json") for graph in module.all_of(Graph)},
        files=users_files(),
        grace=float(runtime.shutdown_grace),
        version=runtime.version,
    )


def _failed(error: ExotrioError) -> Failed:
    cause = None if error.__cause__ is None else first_leaf(error.__cause__)
    text = str(error)
    missing = isinstance(error, TargetMissing)
    if cause is not None and not missing and not isinstance(cause, ExotrioError | ValidationError):
        # The user's code raised: its traceback helps more than a hint.
        text = f"{error.what}\n{users_traceback(error)}".rstrip("\n")
    return Failed(text, exit_code(error), missing, users_files(error))


if __name__ == "__main__":
    sys.exit(main())
