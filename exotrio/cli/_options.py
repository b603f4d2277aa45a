"""Options that several commands have, beside those of ``_connection``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from exotrio.cli import _values

F = TypeVar("F", bound=Callable[..., Any])

output = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Form of what is printed.",
)
inputs = click.option(
    "-i",
    "--input",
    "inputs",
    multiple=True,
    callback=_values.pairs,
    metavar="NAME=VALUE",
    help="Input of the graph's first node; repeatable. =@FILE reads the value from a file, =@- from "
    "standard input; =@@TEXT is @TEXT.",
)
store = click.option(
    "--store",
    multiple=True,
    callback=_values.pairs,
    metavar="NAME=VALUE",
    help="Entry of the run's store; repeatable, with the same forms.",
)
secrets = click.option(
    "--secret",
    "secrets",
    multiple=True,
    callback=_values.secrets,
    metavar="NAME",
    help="Secret of the graph, from the environment variable of that name; repeatable. NAME=@FILE reads "
    "it from a file, NAME=@- from standard input.",
)
inputs_file = click.option(
    "--inputs-file",
    callback=_values.values_file,
    metavar="FILE",
    help='JSON file with inputs, {"name": "value"}; - for standard input.',
)
secrets_file = click.option(
    "--secrets-file",
    callback=_values.values_file,
    metavar="FILE",
    help='JSON file with secrets, {"name": "value"}; - for standard input.',
)


class Seconds(click.FloatRange):
    """A number of seconds, at most ten years; also not a number is none."""

    name = "seconds"

    def __init__(self) -> None:
        super().__init__(0, 10 * 365 * 86_400)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if seconds != seconds:
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


def limit(default: int, help: str) -> Callable[[F], F]:
    """Return the option that says how many entries of a list are wanted."""
    return click.option(
        "--limit", default=default, show_default=True, metavar="N", type=click.IntRange(1), help=help
    )
