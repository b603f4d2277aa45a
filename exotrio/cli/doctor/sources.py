"""Where each setting comes from: the environment, or ``.env`` in the working directory."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from dotenv.parser import parse_stream

from exotrio._util.settings import ENV_FILE, PREFIX, VARIABLES, from_environment, from_file
from exotrio.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """What the environment and ``.env`` say, each by itself. Empty values are left out.

    Attributes:
        environment, file: Variable to value.
        path: Where ``.env`` is looked up.
        exists: It is there.
        problem: Why it cannot be read; None if it can.
        unparsed: Lines of it that are no settings.
        unread: Names in either that begin like ours and are none.
    """

    environment: dict[str, str] = field(repr=False)
    file: dict[str, str] = field(repr=False)
    path: Path
    exists: bool
    problem: ConfigurationError | None = None
    unparsed: list[int] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def read_sources() -> Sources:
    """Return where each setting comes from: the environment counts, then ``.env``."""
    named = list(os.environ)
    values: dict[str, str] = {}
    problem, unparsed = None, list[int]()
    try:
        values = from_file()
    except ConfigurationError as error:
        problem = error
    else:
        if os.path.isfile(ENV_FILE):
            with open(ENV_FILE, encoding="utf-8") as stream:
                bindings = list(parse_stream(stream))
            named += [binding.key for binding in bindings if binding.key is not None]
            unparsed = [binding.original.line for binding in bindings if binding.error]
    return Sources(
        environment=from_environment(),
        file=values,
        path=Path(ENV_FILE).absolute(),
        exists=os.path.lexists(ENV_FILE),
        problem=problem,
        unparsed=unparsed,
        unread=sorted({name for name in named if _is_unread(name.upper())}),
    )


def _is_unread(name: str) -> bool:
    return name.startswith(PREFIX) and name not in VARIABLES
