"""The command line. Each command lives in a module of its own, imported when it is asked for, so
that ``--help`` and small commands start fast."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from exotrio._errors import ExotrioError
from exotrio.cli._exit import exit_code

_COMMANDS = {
    "run": "Run a graph from start to end on this machine.",
    "worker": "Run the nodes of one Runtime against a state manager.",
    "server": "Run a state manager on a port.",
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
    """Run the command line and exit. Errors of exotrio are up to three lines, never a traceback."""
    try:
        result: Any = cli.main(args, prog_name="python -m exotrio", standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except ExotrioError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(exit_code(error))
    except BrokenPipeError:
        # Whoever read our output went away (``| head``): nothing is left to say to them.
        sys.stderr.close()
        sys.exit(1)
