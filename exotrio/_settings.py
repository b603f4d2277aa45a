"""Settings from the environment and a ``.env`` file: the only reader of either.

pydantic-settings is imported where it is first used, since it costs 100 ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from exotrio._errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings

URI_VARIABLE = "EXOSPHERE_STATE_MANAGER_URI"
KEY_VARIABLE = "EXOSPHERE_API_KEY"
NAMESPACE_VARIABLE = "EXOSPHERE_NAMESPACE"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says. Empty values count as absent.

    Attributes:
        state_manager_uri: ``EXOSPHERE_STATE_MANAGER_URI``.
        api_key: ``EXOSPHERE_API_KEY``.
        state_manager_secret: ``STATE_MANAGER_SECRET``, the server's name for its key.
        secrets_encryption_key: ``SECRETS_ENCRYPTION_KEY``.
        cors_origins: ``CORS_ORIGINS``, a comma list.
        namespace: ``EXOSPHERE_NAMESPACE``, the command line's default.
    """

    state_manager_uri: str | None
    api_key: str | None
    state_manager_secret: str | None
    secrets_encryption_key: str | None
    cors_origins: str | None
    namespace: str | None = None


@cache
def _model() -> type[BaseSettings]:
    from pydantic import Field
    from pydantic_settings import BaseSettings, SettingsConfigDict

    class Environment(BaseSettings):
        model_config = SettingsConfigDict(
            env_file=".env", env_file_encoding="utf-8", extra="ignore", env_ignore_empty=True
        )

        state_manager_uri: str | None = Field(default=None, validation_alias=URI_VARIABLE)
        api_key: str | None = Field(default=None, validation_alias=KEY_VARIABLE)
        state_manager_secret: str | None = Field(default=None, validation_alias="STATE_MANAGER_SECRET")
        secrets_encryption_key: str | None = Field(default=None, validation_alias="SECRETS_ENCRYPTION_KEY")
        cors_origins: str | None = Field(default=None, validation_alias="CORS_ORIGINS")
        namespace: str | None = Field(default=None, validation_alias=NAMESPACE_VARIABLE)

    return Environment


def read_settings() -> Settings:
    """Read the environment, then ``.env`` in the working directory for what it lacks.

    Raises:
        ConfigurationError: ``.env`` exists and cannot be read.
    """
    try:
        values = _model()().model_dump()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the file .env cannot be read: {error}",
            where="looked up in the working directory for the settings EXOSPHERE_*",
            fix="make it a readable UTF-8 text file, or move it away",
        ) from error
    return Settings(**values)
