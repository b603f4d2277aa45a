"""Options that several commands have, except those of ``connection``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from exotrio._shared.settings import DATABASE_VARIABLE, KEY_VARIABLE, read_key_file
from exotrio._util.database_url import check_database, is_database_url, parse_database_url
from exotrio._util.times import parse_duration
from exotrio._wire.vocabulary import MAX_WEIGHT, MIN_WEIGHT, check_key
from exotrio.cli import completion, values
from exotrio.cli.folder import DATABASE, keys_of
from exotrio.errors import ConfigurationError

if TYPE_CHECKING:
    from exotrio.cli.completion import Kind

F = TypeVar("F", bound=Callable[..., Any])

MAX_SECONDS = 10 * 365 * 86_400
"""Seconds: ten years."""

target = click.argument("target", metavar="FILE_OR_MODULE[:ATTR]", shell_complete=completion.files)
graph = click.argument("graph", shell_complete=completion.names("graph"))
node = click.argument("node", shell_complete=completion.names("node"))
run = click.argument("run_id", metavar="RUN", shell_complete=completion.names("run"))
from_beginning = click.option(
    "--from-beginning", is_flag=True, help="Do not continue from a checkpoint; it is erased."
)
output = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Format of the output.",
)
_secrets = click.option(
    "--secret",
    "secrets",
    multiple=True,
    callback=values.secrets,
    metavar="NAME",
    help="Secret of the graph, from the environment variable of that name; repeatable. NAME=@FILE reads "
    "it from a file, NAME=@- from standard input.",
)


def _inputs(what: str) -> Callable[[F], F]:
    return click.option(
        "-i",
        "--input",
        "inputs",
        multiple=True,
        callback=values.pairs,
        metavar="NAME=VALUE",
        help=f"{what}; repeatable. =@FILE reads the value from a file, =@- from standard input; =@@TEXT is "
        "@TEXT.",
    )


_store = click.option(
    "--store",
    multiple=True,
    callback=values.pairs,
    metavar="NAME=VALUE",
    help="Entry of the run's store; repeatable, in the same forms as an input.",
)


def run_key(
    help: str = "What the run is for, such as the number of an order: a graph has at most one run for each "
    "key. Not a secret, and not the API key.",
) -> Callable[[F], F]:
    """Return the option for the key of a run; the command gets ``run_key``.

    The API key, which ``server --key`` is, is refused: everyone who sees a run sees the key of the run."""

    def add(function: F) -> F:
        @wraps(function)
        def with_key(*args: Any, run_key: str | None, **others: Any) -> Any:
            if run_key is not None:
                try:
                    check_key(run_key)
                except ValueError as error:
                    raise click.UsageError(f"the --run-key {error}") from None
                api_keys = [*keys_of(Path(others.get("db") or DATABASE)).values()]
                if key_file := others.get("key_file"):
                    api_keys.append(read_key_file(key_file, "option --key-file"))
                if run_key in api_keys:
                    raise click.UsageError(
                        "the --run-key is the API key, and everyone who sees the run would see it; the API "
                        f"key is given with --key-file or {KEY_VARIABLE}"
                    )
            return function(*args, run_key=run_key, **others)

        return cast("F", click.option("--run-key", metavar="TEXT", help=help)(with_key))

    return add


def _with_file(name: str, option: str) -> Callable[[F], F]:
    """Return what adds the option for a file with values to ``option``; the command gets all as ``name``."""
    file_option = click.option(
        f"--{name}-file",
        callback=values.values_file,
        metavar="FILE",
        help=f'JSON file with {name}, {{"name": "value"}}; - for standard input.',
        shell_complete=completion.files,
    )

    def add(function: F) -> F:
        @wraps(function)
        def with_all(*args: Any, **values_of: Any) -> Any:
            from_options, from_file = values_of.pop(name), values_of.pop(f"{name}_file")
            merged = values.merged(from_options, from_file, option, f"--{name}-file")
            return function(*args, **{name: merged}, **values_of)

        return cast("F", file_option(with_all))

    return add


def run_values(function: F) -> F:
    """Add the options for the values of a run; the command gets ``inputs`` and ``store``."""
    return _inputs("Input of the graph's first node")(_with_file("inputs", "-i")(_store(function)))


def event_fields(function: F) -> F:
    """Add the options for the fields of an event; the command gets ``inputs``."""
    return _inputs("Field of the event")(_with_file("inputs", "-i")(function))


def secrets(function: F) -> F:
    """Add the options for the secrets of graphs; the command gets ``secrets``."""
    return _secrets(_with_file("secrets", "--secret")(function))


class Parsed(click.ParamType):  # type: ignore[type-arg]  # not generic in older clicks
    """What ``parse`` returns for the text of an option; its ValueError says what is wrong."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _number(text: str, lowest: float, highest: float, of: str = "") -> float:
    with suppress(ValueError):
        if lowest <= (number := float(text)) <= highest:
            return number
    raise ValueError(f"{text!r} is not a number{of} from {lowest:g} to {highest:,.12g}")


_seconds = partial(_number, highest=MAX_SECONDS, of=" of seconds")


def _ago(text: str) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=parse_duration(text))


def _code_version(text: str) -> str:
    from exotrio.graph import check_version  # here, since it imports pydantic

    return check_version(text)


def _database(text: str) -> str:
    if not text:
        raise click.UsageError("the name of the database is empty: give one, or leave it out")
    if not is_database_url(text):
        check_database(text)
    elif parse_database_url(text, source="the arguments").secrets:
        # Refused, not only warned of: the list of processes shows it while this one runs.
        raise ConfigurationError(
            "the URL of the database has a password in it",
            where="it came from the arguments, which other users of this machine can read",
            fix=f"put the URL into {DATABASE_VARIABLE} instead; or leave the password out, and set"
            " PGPASSFILE to a file that has it",
        )
    return text


SECONDS = Parsed("seconds", partial(_seconds, lowest=0))
"""A number of seconds, no more than ten years."""
WEIGHT = Parsed("number", partial(_number, lowest=MIN_WEIGHT, highest=MAX_WEIGHT))
DURATION = Parsed("duration", parse_duration)
"""A duration such as ``2h``, as seconds."""
AGO = Parsed("duration", _ago)
"""How long ago something was, such as ``2h``, as the time of it."""
CODE_VERSION = Parsed("version", _code_version)
DATABASE_NAME = Parsed("database", _database)
"""A database: a file, ``:memory:``, or the URL of a PostgreSQL without a password."""
PORT = click.IntRange(0, 65_535)
"""A port; 0 stands for any free one."""
PORT.name = "port"


def database(help: str) -> Callable[[F], F]:
    return click.option(
        "--db", metavar="FILE_OR_URL", type=DATABASE_NAME, help=help, shell_complete=completion.files
    )


WHERE_BY_DEFAULT = f"[default: {DATABASE_VARIABLE}, then .exotrio/state.db]"


def seconds(name: str, default: float, help: str, *, lowest: float = 0) -> Callable[[F], F]:
    kind = Parsed("seconds", partial(_seconds, lowest=lowest))
    return click.option(name, default=default, show_default=True, type=kind, help=help)


timeout = click.option(
    "--timeout", type=SECONDS, help="How long to wait for the end of the run.  [default: without a limit]"
)


def name(*names: str, kind: Kind, help: str) -> Callable[[F], F]:
    """Return an option that names something of a kind, which the shell completes."""
    metavar = "RUN" if kind == "run" else "NAME"
    return click.option(*names, metavar=metavar, shell_complete=completion.names(kind), help=help)


def limit(default: int, help: str) -> Callable[[F], F]:
    """Return the option that limits the entries of a list."""
    return click.option(
        "--limit", default=default, show_default=True, metavar="N", type=click.IntRange(1), help=help
    )
