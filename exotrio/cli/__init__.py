"""The command line. Each command lives in a module of its own, imported when it is asked for, so
that ``--help`` and small commands start fast."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import click

from exotrio.cli.exit_codes import exit_code
from exotrio.cli.groups import LazyCommands
from exotrio.cli.terminal.logs import print_error
from exotrio.cli.terminal.output import prepare_streams, print_message, settle
from exotrio.errors import ConfigurationError, ExotrioError

_COMMANDS = {
    "run": "Run a graph from start to end on this machine.",
    "dev": "Run a file with its state manager and a dashboard, and reload it.",
    "worker": "Run the nodes of one Runtime against a state manager.",
    "server": "Run a state manager on a port.",
    "graph": "Declare graphs, look at them, and check files offline.",
    "trigger": "Start a run of a graph.",
    "runs": "Look at the runs of a namespace; cancel or retry one.",
    "states": "Look at the states of a run; retry one.",
    "nodes": "Show which nodes are registered.",
    "runtimes": "Show which runtimes live, and drain them.",
    "export": "Save a run as one HTML page that stands alone.",
    "top": "Show what happens in a namespace, live.",
    "doctor": "Say whether all is well; if not, what is stuck and why.",
    "backup": "Fetch a backup of a state manager's database.",
    "rotate-secrets": "Encrypt what is secret in a database with a new key.",
}


@click.group(
    cls=LazyCommands,
    modules=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 success; 1 the run failed, or something needs attention; 2 usage or configuration; "
    "3 invalid graph or module, or refused; 4 state manager unreachable; 5 key refused; 6 not found; "
    "7 port or database busy; 75 something is left behind; 130 interrupted.",
)
@click.version_option(package_name="exotrio")
def cli() -> None:
    """Run Exosphere workflow nodes on Trio. Nothing that was claimed is lost."""


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit. Errors people make are up to three lines, never a traceback."""
    prepare_streams()
    try:
        _require_working_directory()
        result: Any = cli.main(args, prog_name="python -m exotrio", standalone_mode=False)
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
        # Whoever read our output went away (``--help | head -1``): nothing is left to say to them.
        sys.exit(1)
    except OSError as error:
        # Of results their commands tell it; this is click's own writing, such as that of --help.
        if error.errno != errno.ENOSPC:
            raise
        print_message(f"error: nothing could be written: {error.strerror}")
        sys.exit(1)
    finally:
        settle()


def _require_working_directory() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigurationError(
            "the working directory does not exist any more",
            where="modules, .env and the database are looked up in it",
            fix="change to another directory",
        ) from error
