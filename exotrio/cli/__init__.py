"""The command line. Each command lives in a module of its own, imported when it is asked for, so
that ``--help`` and small commands start fast."""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import Any

import click

from exotrio._errors import ConfigurationError, ExotrioError
from exotrio.cli._exit import exit_code
from exotrio.cli._logs import tell_error
from exotrio.cli._output import settle

_COMMANDS = {
    "run": "Run a graph from start to end on this machine.",
    "worker": "Run the nodes of one Runtime against a state manager.",
    "server": "Run a state manager on a port.",
    "runs": "Show the runs of a namespace, or cancel one.",
    "backup": "Fetch a backup of a state manager's database.",
}


class _Lazy(click.Group):
    """A group that imports a command when it is run or asked for help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"exotrio.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="exotrio")
def cli() -> None:
    """Run Exosphere workflow nodes on Trio. Nothing that was claimed is lost."""


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit. Errors people make are up to three lines, never a traceback."""
    _prepare_streams()
    try:
        _require_working_directory()
        result: Any = cli.main(args, prog_name="python -m exotrio", standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        sys.exit(2)
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(f"{error.ctx.get_usage()}\nsee: {error.ctx.command_path} --help", err=True)
        sys.exit(2)
    except click.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except ExotrioError as error:
        tell_error(error)
        sys.exit(exit_code(error))
    except BrokenPipeError:
        # Whoever read our output went away (``--help | head -1``): nothing is left to say to them.
        sys.exit(1)
    finally:
        settle()


def _prepare_streams() -> None:
    """Make writing to the standard streams safe, however this process was started."""
    # The next file that is opened gets the number of a closed stream. Were that the database, lines
    # meant for standard error would be written into it.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")
    # Outputs of nodes may hold what the terminal's encoding lacks; that is no reason to show nothing.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _require_working_directory() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigurationError(
            "the working directory does not exist any more",
            where="modules, .env and the database are looked up in it",
            fix="change to another directory",
        ) from error
