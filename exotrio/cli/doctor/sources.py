"""Where each setting comes from: the environment, or ``.env`` in the working directory."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dotenv.parser import parse_stream
from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource

from exotrio._util.settings import ENV_FILE, PREFIX, VARIABLES, environment_model, readable
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
    path = Path(ENV_FILE).absolute()
    known = {name.upper() for name in VARIABLES}
    named = [name for name in os.environ if name.upper().startswith(PREFIX)]
    values: dict[str, str] = {}
    problem, unparsed = None, list[int]()
    try:
        with readable():
            values, names, unparsed = _read_file()
            named += [name for name in names if name.upper().startswith(PREFIX)]
    except ConfigurationError as error:
        problem = error
    return Sources(
        environment=_ours(EnvSettingsSource(environment_model())()),
        file=values,
        path=path,
        exists=os.path.lexists(path),
        problem=problem,
        unparsed=unparsed,
        unread=sorted({name for name in named if name.upper() not in known}),
    )


def _read_file() -> tuple[dict[str, str], list[str], list[int]]:
    """Return the values of ours, all names, and the lines that cannot be read."""
    values = _ours(DotEnvSettingsSource(environment_model())())
    if not os.path.isfile(ENV_FILE):
        return values, [], []
    with open(ENV_FILE, encoding="utf-8") as stream:
        bindings = list(parse_stream(stream))
    names = [binding.key for binding in bindings if binding.key is not None]
    return values, names, [binding.original.line for binding in bindings if binding.error]


def _ours(found: dict[str, Any]) -> dict[str, str]:
    return {name: found[name] for name in VARIABLES if name in found}
