"""Settings from the environment and a ``.env`` file in the working directory: the only reader of either."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exotrio.errors import ConfigurationError

URI_VARIABLE = "EXOSPHERE_STATE_MANAGER_URI"
KEY_VARIABLE = "EXOSPHERE_API_KEY"
KEY_FILE_VARIABLE = "EXOSPHERE_API_KEY_FILE"
NAMESPACE_VARIABLE = "EXOSPHERE_NAMESPACE"
SERVER_KEY_VARIABLE = "STATE_MANAGER_SECRET"
SECRETS_KEY_VARIABLE = "SECRETS_ENCRYPTION_KEY"
CORS_VARIABLE = "CORS_ORIGINS"
DATABASE_VARIABLE = "EXOTRIO_DATABASE_URL"
CODE_VERSION_VARIABLE = "EXOTRIO_CODE_VERSION"
VARIABLES = {
    URI_VARIABLE: "state_manager_uri",
    KEY_VARIABLE: "api_key",
    KEY_FILE_VARIABLE: "api_key_file",
    NAMESPACE_VARIABLE: "namespace",
    SERVER_KEY_VARIABLE: "state_manager_secret",
    SECRETS_KEY_VARIABLE: "secrets_encryption_key",
    CORS_VARIABLE: "cors_origins",
    DATABASE_VARIABLE: "database_url",
    CODE_VERSION_VARIABLE: "code_version",
}
"""The field of ``Settings`` for each."""
SECRET_VARIABLES = frozenset({KEY_VARIABLE, SERVER_KEY_VARIABLE, SECRETS_KEY_VARIABLE, DATABASE_VARIABLE})
PREFIXES = ("EXOSPHERE_", "EXOTRIO_")
"""Of the names of variables that are meant for exotrio or for the stock SDK."""
MAX_KEY_FILE = 4096
"""Characters of a file with a key that are read."""
ENV_FILE = ".env"
FROM_FILE = f" in {ENV_FILE} of the working directory"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The settings; ``VARIABLES`` says from which variables. Empty values count as absent.

    Attributes:
        api_key: The text of ``api_key_file``, if only that is given.
        state_manager_secret: The server's name for its key.
        secrets_encryption_key: One key or several.
        cors_origins: A comma list.
        namespace: The namespace of commands that name none.
        database_url: The PostgreSQL of a state manager for which no database is named.
        code_version: The version of a runtime that names none.
    """

    state_manager_uri: str | None = None
    api_key: str | None = field(default=None, repr=False)
    api_key_file: str | None = None
    state_manager_secret: str | None = field(default=None, repr=False)
    secrets_encryption_key: str | None = field(default=None, repr=False)
    cors_origins: str | None = None
    namespace: str | None = None
    database_url: str | None = field(default=None, repr=False)
    code_version: str | None = None


def read_settings() -> Settings:
    """Read the environment, and ``.env`` for what is not in it.

    Raises:
        ConfigurationError: ``.env``, or the file with the API key, is unreadable.
    """
    environment = from_environment()
    values = {**from_file(), **environment}
    if KEY_FILE_VARIABLE in environment and KEY_VARIABLE not in environment:
        values.pop(KEY_VARIABLE, None)
    if KEY_VARIABLE in values:
        values.pop(KEY_FILE_VARIABLE, None)
    elif KEY_FILE_VARIABLE in values:
        values[KEY_VARIABLE] = read_key_file(values[KEY_FILE_VARIABLE], f"variable {KEY_FILE_VARIABLE}")
    return Settings(**{VARIABLES[name]: value for name, value in values.items()})


def read_key_file(path: str | Path, source: str) -> str:
    """Return the API key in a file; ConfigurationError if it cannot be read, or is empty."""
    try:
        with open(path, encoding="utf-8") as file:
            key = file.read(MAX_KEY_FILE).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(
            f"the key file {path} cannot be read: {reason}",
            where=source,
            fix=f"name a readable file that holds the API key, or set {KEY_VARIABLE}",
        ) from error
    if not key:
        raise ConfigurationError(
            f"the key file {path} is empty", where=source, fix="write the API key into it"
        )
    return key


def source_of_key(settings: Settings) -> str:
    """Return where the API key of settings comes from, for messages, as ``source_of`` does."""
    if settings.api_key_file is None:
        return source_of(KEY_VARIABLE)
    return f"file {settings.api_key_file} of {source_of(KEY_FILE_VARIABLE)}"


def source_of(variable: str) -> str:
    """Return where a setting comes from, for messages: a text that ends in ``FROM_FILE`` if from ``.env``."""
    return f"variable {variable}{'' if variable in from_environment() else FROM_FILE}"


def from_environment() -> dict[str, str]:
    """Return our variables in the environment, by name. Empty ones are left out."""
    return _ours(os.environ)


def from_file() -> dict[str, str]:
    """Return our variables in ``.env``, by name, without empty ones. ConfigurationError: it is unreadable."""
    if not os.path.isfile(ENV_FILE):
        return {}
    # Here, since most programs have no such file.
    from dotenv import dotenv_values

    try:
        return _ours(dotenv_values(ENV_FILE, encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the file {ENV_FILE} cannot be read: {error}",
            where="looked up in the working directory for the settings EXOSPHERE_*",
            fix="make it a readable UTF-8 text file, or move it away",
        ) from error


def _ours(variables: Mapping[str, str | None]) -> dict[str, str]:
    # Names may be written in lower case, as the stock SDK reads them.
    values = {name.upper(): value for name, value in variables.items() if value}
    return {name: values[name] for name in VARIABLES if name in values}
