"""The command line, ``python -m exotrio``.

A new command is a module ``commands/<name>.py`` with a click command called ``command``. Add its name and one
line of help to ``_COMMANDS`` below, and a row to the guide (``examples/README.md``, Commands), which a test
requires. It is imported only when it runs or its help is printed, so that every command starts fast. Return
an exit code (``exit_codes``) unless it is 0, raise exotrio's errors as they are, and print results with
``Connection.print`` or ``terminal.output``. Tests call it in process: see ``Cli`` in
``tests/support/commands.py``.

================  ================================================================================
``commands``      options, help and output of each command
``options``       options that several commands share; ``values``: inputs, store entries and secrets in them
``connection``    the state manager that a command is for, and its options
``folder``        the database of this folder, if no state manager is named
``lookup``        graphs, nodes, runs, states and runtimes by a name, a key or a part of an id
``load``          a user's file or module, and the Runtime and Graph in it
``graphs``        graphs in files: reading, checking, declaring
``runs``          ``run``, and starting and following runs
``dev``           ``dev``; ``rehearsal``: ``rehearse``
``health_server`` ``worker --health-port``
``doctor``        ``doctor``; ``top``: ``top``
``terminal``      results, messages, logs, progress, the browser
``program``       how this program was called, and its signals; ``groups``: click's groups
``completion``    what the Tab key completes
================  ================================================================================

``file_process`` and ``file_process_main`` are the two ends of a process that runs a user's Runtime for a
command that never loads the user's code.
The command line uses exotrio through its public names, and the private modules in the table
``PRIVATE_IN_CLI`` of ``tests/test_architecture.py``, each only in the places named there.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import click

from exotrio.cli import completion
from exotrio.cli.exit_codes import exit_code
from exotrio.cli.groups import LazyCommands
from exotrio.cli.program import CalledAs
from exotrio.cli.terminal.logs import print_error
from exotrio.cli.terminal.output import flush_streams, prepare_streams, print_message
from exotrio.errors import ConfigurationError, ExotrioError

_COMMANDS = {
    "run": "Run a graph from start to end on this machine.",
    "dev": "Run a file with its state manager and a dashboard, and reload it.",
    "worker": "Run the nodes of one Runtime against a state manager.",
    "rehearse": "Stop a graph's processes at random moments, and see what is lost.",
    "ui": "Open the dashboard of a database in a browser.",
    "server": "Run a state manager on a port.",
    "graph": "Declare, show and check graphs.",
    "trigger": "Start a run of a graph, or many.",
    "runs": "List and show runs; watch, cancel or retry one.",
    "states": "List and show states; retry one.",
    "limits": "List, show, set and delete limits: how many states run at once, or start in a period.",
    "keys": "List, add and revoke keys that may do a part of what the root key may.",
    "nodes": "List registered nodes; pause and resume them.",
    "runtimes": "List runtimes, drain them, show their tasks.",
    "versions": "List versions of code: which runtimes have them, and which may be stopped.",
    "export": "Save a run as one self-contained HTML page.",
    "top": "Show live what happens in a namespace.",
    "doctor": "Diagnose settings, the state manager and stuck work.",
    "audit": "List who changed what.",
    "backup": "Fetch a backup of a state manager's database.",
    "migrate": "Move a database from SQLite to PostgreSQL.",
    "rotate-secrets": "Encrypt the secrets in a database with a new key.",
}


@click.group(
    cls=LazyCommands,
    modules=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 success; 1 the run failed, or something needs attention; 2 usage or configuration; "
    "3 invalid graph or module, or refused; 4 state manager unreachable; 5 key refused; 6 not found; "
    "7 port or database busy; 8 the run waits for events; 75 something was abandoned; 130 interrupted.",
)
@click.version_option(package_name="exotrio")
@click.option(
    "--completion",
    type=click.Choice(completion.SHELLS),
    callback=completion.print_script,
    is_eager=True,
    expose_value=False,
    help="Print the script with which a shell completes commands at the Tab key: see the guide.",
)
def cli() -> None:
    """Run Exosphere workflow nodes on Trio. Nothing that was claimed is lost."""


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit. Expected errors are up to three lines, never a traceback.

    ``args`` is for a program that calls it and may continue: no watchdog ends that process afterwards.
    """
    prepare_streams()
    try:
        _require_working_directory()
        result: Any = cli.main(
            args,
            prog_name="python -m exotrio",
            complete_var=completion.VARIABLE,
            standalone_mode=False,
            obj=CalledAs(process=args is None),
        )
        sys.exit(result if isinstance(result, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        sys.exit(2)
    except click.ClickException as error:
        print_message(f"error: {error.format_message()}")
        if isinstance(error, click.UsageError) and error.ctx is not None:
            print_message(f"{error.ctx.get_usage()}\nsee: {error.ctx.command_path} --help")
        sys.exit(2)
    except click.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except ExotrioError as error:
        print_error(error)
        sys.exit(exit_code(error))
    except BrokenPipeError:
        # The reader of our output went away, as in ``--help | head -1``.
        sys.exit(1)
    except OSError as error:
        # Commands report it for their results; this is click's own output, such as --help.
        if error.errno != errno.ENOSPC:
            raise
        print_message(f"error: the output could not be written: {error.strerror}")
        sys.exit(1)
    finally:
        flush_streams()


def _require_working_directory() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigurationError(
            "the working directory no longer exists",
            where="modules, .env and the database are looked up in it",
            fix="change to another directory",
        ) from error
