"""Settings from the environment and a ``.env`` file: the only reader of either.

pydantic-settings is imported where it is first used, since it costs 100 ms.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exotrio.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings

URI_VARIABLE = "EXOSPHERE_STATE_MANAGER_URI"
KEY_VARIABLE = "EXOSPHERE_API_KEY"
NAMESPACE_VARIABLE = "EXOSPHERE_NAMESPACE"
SERVER_KEY_VARIABLE = "STATE_MANAGER_SECRET"
SECRETS_KEY_VARIABLE = "SECRETS_ENCRYPTION_KEY"
CORS_VARIABLE = "CORS_ORIGINS"
VARIABLES = (
    URI_VARIABLE,
    KEY_VARIABLE,
    NAMESPACE_VARIABLE,
    SERVER_KEY_VARIABLE,
    SECRETS_KEY_VARIABLE,
    CORS_VARIABLE,
)
SECRET_VARIABLES = frozenset({KEY_VARIABLE, SERVER_KEY_VARIABLE, SECRETS_KEY_VARIABLE})
PREFIX = "EXOSPHERE_"
"""Of variables that are meant for us, or for the stock SDK, which has the first two."""
ENV_FILE = ".env"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says. Empty values count as absent.

    Attributes:
        state_manager_uri: ``EXOSPHERE_STATE_MANAGER_URI``.
        api_key: ``EXOSPHERE_API_KEY``.
        state_manager_secret: ``STATE_MANAGER_SECRET``, the server's name for its key.
        secrets_encryption_key: ``SECRETS_ENCRYPTION_KEY``, one key or several.
        cors_origins: ``CORS_ORIGINS``, a comma list.
        namespace: ``EXOSPHERE_NAMESPACE``, the command line's default.
    """

    state_manager_uri: str | None
    api_key: str | None = field(repr=False)
    state_manager_secret: str | None = field(repr=False)
    secrets_encryption_key: str | None = field(repr=False)
    cors_origins: str | None
    namespace: str | None = None


@cache
def _model() -> type[BaseSettings]:
    from pydantic import Field
    from pydantic_settings import BaseSettings, SettingsConfigDict

    class Environment(BaseSettings):
        model_config = SettingsConfigDict(
            env_file=ENV_FILE, env_file_encoding="utf-8", extra="ignore", env_ignore_empty=True
        )

        state_manager_uri: str | None = Field(default=None, validation_alias=URI_VARIABLE)
        api_key: str | None = Field(default=None, validation_alias=KEY_VARIABLE)
        state_manager_secret: str | None = Field(default=None, validation_alias=SERVER_KEY_VARIABLE)
        secrets_encryption_key: str | None = Field(default=None, validation_alias=SECRETS_KEY_VARIABLE)
        cors_origins: str | None = Field(default=None, validation_alias=CORS_VARIABLE)
        namespace: str | None = Field(default=None, validation_alias=NAMESPACE_VARIABLE)

    return Environment


def read_settings() -> Settings:
    """Read the environment, then ``.env`` in the working directory for what it lacks.

    Raises:
        ConfigurationError: ``.env`` exists and cannot be read.
    """
    with _readable():
        values = _model()().model_dump()
    return Settings(**values)


FROM_FILE = f" in {ENV_FILE} of the working directory"


def source_of(variable: str) -> str:
    """Return where a setting that is there comes from, to be told, ending in ``FROM_FILE`` if from there."""
    # As pydantic-settings looks it up: in any case, and empty values are absent.
    named = any(value for name, value in os.environ.items() if name.upper() == variable)
    return f"variable {variable}{'' if named else FROM_FILE}"


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the file {ENV_FILE} cannot be read: {error}",
            where="looked up in the working directory for the settings EXOSPHERE_*",
            fix="make it a readable UTF-8 text file, or move it away",
        ) from error


@dataclass(frozen=True, slots=True)
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
    from pydantic_settings import EnvSettingsSource

    path = Path(ENV_FILE).absolute()
    known = {name.upper() for name in VARIABLES}
    named = [name for name in os.environ if name.upper().startswith(PREFIX)]
    values: dict[str, str] = {}
    problem, unparsed = None, list[int]()
    try:
        with _readable():
            values, names, unparsed = _read_file()
            named += [name for name in names if name.upper().startswith(PREFIX)]
    except ConfigurationError as error:
        problem = error
    return Sources(
        environment=_ours(EnvSettingsSource(_model())()),
        file=values,
        path=path,
        exists=os.path.lexists(path),
        problem=problem,
        unparsed=unparsed,
        unread=sorted({name for name in named if name.upper() not in known}),
    )


def _read_file() -> tuple[dict[str, str], list[str], list[int]]:
    """Return the values of ours, all names, and the lines that cannot be read."""
    from dotenv.parser import parse_stream
    from pydantic_settings import DotEnvSettingsSource

    values = _ours(DotEnvSettingsSource(_model())())
    if not os.path.isfile(ENV_FILE):
        return values, [], []
    with open(ENV_FILE, encoding="utf-8") as stream:
        bindings = list(parse_stream(stream))
    names = [binding.key for binding in bindings if binding.key is not None]
    return values, names, [binding.original.line for binding in bindings if binding.error]


def _ours(found: dict[str, Any]) -> dict[str, str]:
    return {name: found[name] for name in VARIABLES if name in found}
