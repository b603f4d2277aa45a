"""What the Tab key of a shell completes besides commands and options: files, and names in a database.

``exotrio --completion SHELL`` prints the script for a shell, which calls this program at each Tab with
``VARIABLE`` set; click does the rest. A user waits for the answer: so names are only read from a file, and a
command is not imported to complete its name (``groups.LazyCommands``).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exotrio._shared.settings import read_settings
from exotrio._util.database_url import is_database_url
from exotrio.cli.folder import DATABASE
from exotrio.errors import ExotrioError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from exotrio.manager.store.sqlite.names import Kind as Kind

    Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_EXOTRIO_COMPLETE"


def print_script(ctx: click.Context, parameter: click.Parameter, shell: str | None) -> None:
    """Print the script for a shell, and end the program."""
    if shell is None or ctx.resilient_parsing:
        return
    from click.shell_completion import get_completion_class  # here, since only completion needs it

    completion = get_completion_class(shell)
    assert completion is not None, "click knows these shells"
    click.echo(completion(ctx.command, {}, "exotrio", VARIABLE).source())
    ctx.exit()


def files(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem  # here, as above

    return [CompletionItem(incomplete, type="file")]


def names(kind: Kind) -> Complete:
    """Return what completes names from the database that the command would open, if that is a file."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from exotrio.manager.store.sqlite.names import names_in  # here, as above

        try:
            settings = read_settings()
        except ExotrioError:
            return []
        db: str | None = ctx.params.get("db")
        if db is None and not (ctx.params.get("uri") or settings.state_manager_uri or settings.database_url):
            db = str(DATABASE)
        if db is None or is_database_url(db):
            return []
        entries = names_in(
            Path(db), kind, incomplete, ctx.params.get("namespace") or settings.namespace or ""
        )
        # The shell inserts a name as it is, and others may have chosen it: it must not become a command.
        return [
            CompletionItem(name, help=about or None) for name, about in entries if shlex.quote(name) == name
        ]

    return complete
