"""Settings from the environment and a ``.env`` file: the only reader of either.

pydantic-settings is imported where it is first used, since it costs 100 ms.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The settings. Empty values count as absent.

    Attributes:
        state_manager_uri: ``EXOSPHERE_STATE_MANAGER_URI``.
        api_key: ``EXOSPHERE_API_KEY``.
        state_manager_secret: ``STATE_MANAGER_SECRET``, the server's name for its key.
        secrets_encryption_key: ``SECRETS_ENCRYPTION_KEY``, one key or several.
        cors_origins: ``CORS_ORIGINS``, a comma list.
        namespace: ``EXOSPHERE_NAMESPACE``, the command line's default.
    """

    state_manager_uri: str | None = None
    api_key: str | None = field(default=None, repr=False)
    state_manager_secret: str | None = field(default=None, repr=False)
    secrets_encryption_key: str | None = field(default=None, repr=False)
    cors_origins: str | None = None
    namespace: str | None = None


@cache
def environment_model() -> type[BaseSettings]:
    """Return the model that reads the variables from the environment, then from ``.env``."""
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
    with readable():
        values = environment_model()().model_dump()
    return Settings(**values)


FROM_FILE = f" in {ENV_FILE} of the working directory"


def source_of(variable: str) -> str:
    """Return where a setting comes from, for messages; it ends in ``FROM_FILE`` if from there."""
    # As pydantic-settings looks it up: in any case, and empty values are absent.
    named = any(value for name, value in os.environ.items() if name.upper() == variable)
    return f"variable {variable}{'' if named else FROM_FILE}"


@contextmanager
def readable() -> Iterator[None]:
    """Raise ConfigurationError if ``.env`` cannot be read."""
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the file {ENV_FILE} cannot be read: {error}",
            where="looked up in the working directory for the settings EXOSPHERE_*",
            fix="make it a readable UTF-8 text file, or move it away",
        ) from error
