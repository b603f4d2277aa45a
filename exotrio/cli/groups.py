"""Click groups: they load commands lazily, and suggest the right name for a mistyped one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from exotrio._util.words import closest, listed

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_MAX_HELP = 200
"""Characters of the help next to a command."""


class Commands(click.Group):
    """A group of commands. Its help has a complete sentence for each."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._help_for(ctx, name)) for name in self.list_commands(ctx)])

    def _help_for(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        return "" if command is None else command.get_short_help_str(limit=_MAX_HELP)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            if error.ctx is None and command is not None:
                # For some mistakes click does not say which command they concern.
                error.ctx = click.Context(command, parent=ctx, info_name=ctx.invoked_subcommand)
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        known = self.list_commands(ctx)
        if name not in known and not name.startswith("-") and not ctx.resilient_parsing:
            close = closest(name, known)
            raise click.UsageError(
                f"No such command {name!r}."
                + (f" Did you mean {close!r}?" if close else f" There are: {listed(known)}."),
                ctx,
            )
        return super().resolve_command(ctx, args)


class LazyCommands(Commands):
    """A group that imports a command when it runs or its help is printed.

    ``modules`` maps the name of each to its line of help. The command is ``command`` in the module of that
    name, with ``_`` for ``-``.
    """

    def __init__(self, *, modules: Mapping[str, str], **attributes: Any) -> None:
        super().__init__(**attributes)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._modules:
            return None
        module = importlib.import_module(f"exotrio.cli.commands.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem  # here, since only completion needs it

        known = [CompletionItem(name, help=text) for name, text in self._modules.items()]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [item for item in known if item.value.startswith(incomplete)] + options

    def _help_for(self, ctx: click.Context, name: str) -> str:
        return self._modules[name]
