"""Every setting with its source, and the versions of Python, exotrio and libraries."""

from __future__ import annotations

import os
import platform
import sqlite3
import ssl
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dotenv.parser import parse_stream

import exotrio
from exotrio._http.endpoint import Endpoint
from exotrio._shared.settings import (
    CORS_VARIABLE,
    DATABASE_VARIABLE,
    ENV_FILE,
    KEY_VARIABLE,
    NAMESPACE_VARIABLE,
    PREFIXES,
    SECRET_VARIABLES,
    SECRETS_KEY_VARIABLE,
    SERVER_KEY_VARIABLE,
    URI_VARIABLE,
    VARIABLES,
    from_environment,
    from_file,
    read_key_file,
)
from exotrio._util.database_url import is_database_url, parse_database_url, shown_database
from exotrio._util.words import suggestion
from exotrio.cli.connection import resolve
from exotrio.cli.folder import DATABASE
from exotrio.errors import ConfigurationError
from exotrio.graph import check_name
from exotrio.manager.rules.findings import Finding, database_url_findings, info

PACKAGES = (
    *("trio", "anyio", "httpx", "httpcore", "h11", "pydantic", "pydantic-core", "starlette", "rich"),
    "psycopg",  # of the extra postgres
)
_UNSET = {
    SERVER_KEY_VARIABLE: "`server` uses EXOSPHERE_API_KEY, or makes a key in .exotrio or next to its file",
    SECRETS_KEY_VARIABLE: "`server` keeps a key in .exotrio or next to its file, unless others need it",
    CORS_VARIABLE: "`server` allows no other origin",
    DATABASE_VARIABLE: "`server`, `run` and `dev` use .exotrio/state.db",
}


@dataclass(frozen=True, slots=True)
class Setting:
    name: str
    value: str | None
    """As it may be printed; None if it is not set."""
    source: str
    """Where it came from; if it is not set, the consequence."""


@dataclass(slots=True, kw_only=True)
class Settings:
    """All settings, and findings about them. ``problems`` stop every command; ``findings`` do not."""

    shown: list[Setting] = field(default_factory=list)
    endpoint: Endpoint | None = None
    """The state manager, if its URI can be used, and there is a key."""
    database: str | Path | None = None
    """The database to examine, if no state manager is given."""
    namespace: str | None = None
    problems: list[Finding] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def examine_settings(
    namespace: str | None, uri: str | None, key_file: Path | None, db: str | None = None
) -> Settings:
    """Return the settings: options take precedence, then the environment, then ``.env``.

    ``connection.resolve`` chooses the state manager, as for all other commands, and says what is wrong.
    """
    settings = Settings()
    environment = from_environment()
    file, file_state = _examine_file(settings)
    options: dict[str, tuple[str, str]] = {}
    for name, option, given in (
        (URI_VARIABLE, "--uri", uri),
        (NAMESPACE_VARIABLE, "--namespace", namespace),
        (DATABASE_VARIABLE, "--db", db),
    ):
        if given is not None:
            options[name] = given, f"option {option}"
    if key_file is not None:
        options[KEY_VARIABLE] = "", f"option --key-file {key_file}"
        with suppress(ConfigurationError):
            options[KEY_VARIABLE] = read_key_file(key_file, "option --key-file"), options[KEY_VARIABLE][1]
    path = Path(ENV_FILE).absolute()
    values = {
        **{name: ("", _UNSET.get(name, "")) for name in VARIABLES},
        **{name: (value, f"{ENV_FILE} in {path.parent}") for name, value in file.items()},
        **{name: (value, "environment") for name, value in environment.items()},
        **options,
    }
    for name, (value, source) in values.items():
        settings.shown.append(Setting(name, _as_shown(name, value, source), source))
        if source == "environment" and file.get(name, value) != value:
            what = f"{name} is in {ENV_FILE} too, with another value: the one in the environment is used"
            settings.findings.append(info(what))
    settings.shown.append(Setting(ENV_FILE, str(path), file_state))
    database, database_source = values[DATABASE_VARIABLE]
    try:
        chosen = resolve(namespace, uri, key_file, db)
    except ConfigurationError as error:
        settings.problems += [Finding(problem.replace("\n", " ")) for problem in error.problems] or [
            Finding(error.what, error.fix)
        ]
    else:
        settings.endpoint = chosen.endpoint
        settings.database = database or DATABASE if chosen.endpoint is None else None
    settings.namespace = values[NAMESPACE_VARIABLE][0] or None
    if settings.namespace is not None:
        try:
            check_name(settings.namespace)
        except ValueError as error:
            settings.problems.append(Finding(f"the namespace {error}", "give another one: --namespace NAME"))
            settings.namespace = None
    if database and (db is None or is_database_url(database)):
        try:
            url = parse_database_url(database, source=f"{DATABASE_VARIABLE} in {database_source}")
            settings.findings += database_url_findings(url)
        except ConfigurationError as error:
            finding = Finding(f"{DATABASE_VARIABLE}: {error.what}", error.fix)
            (settings.findings if settings.database is None else settings.problems).append(finding)
            settings.database = None
    return settings


def _examine_file(settings: Settings) -> tuple[dict[str, str], str]:
    """Return our variables in ``.env``, and whether it was read; add findings about either source."""
    names = list(os.environ)
    values: dict[str, str] = {}
    state = "was read" if os.path.lexists(ENV_FILE) else "does not exist"
    if os.path.isdir(ENV_FILE):
        state = "is a folder, not read"
    try:
        values = from_file()
    except ConfigurationError as error:
        settings.problems.append(Finding(error.what, error.fix))
        state = "cannot be read"
    else:
        if os.path.isfile(ENV_FILE):
            with open(ENV_FILE, encoding="utf-8") as stream:
                bindings = list(parse_stream(stream))
            names += [binding.key for binding in bindings if binding.key is not None]
            for binding in bindings:
                if binding.error:
                    what = f"{ENV_FILE}, line {binding.original.line}, is not a setting and was skipped"
                    settings.findings.append(Finding(what, "write NAME=value in it, or # before it"))
    for name in sorted({*names}):
        if name.upper().startswith(PREFIXES) and name.upper() not in VARIABLES:
            what = f"{name} is set and not used{suggestion(name, VARIABLES)}"
            settings.findings.append(info(what, "rename or remove it"))
    return values, state


def _as_shown(name: str, value: str, source: str) -> str | None:
    if not value:
        return None
    if name == DATABASE_VARIABLE:
        with suppress(ConfigurationError):  # if it is malformed, the password may be anywhere in it
            return shown_database(value) if source == "option --db" else parse_database_url(value).shown
    if name in SECRET_VARIABLES:
        # Not even a part of it, from which a short key could be guessed.
        return f"set, {len(value)} characters"
    return Endpoint(value, None).shown if name == URI_VARIABLE else value


def versions() -> dict[str, str]:
    packages = {
        "exotrio": f"{version('exotrio')} in {Path(exotrio.__file__).parent}",
        "python": f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}",
    }
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        **packages,
        "sqlite": sqlite3.sqlite_version,
        "openssl": ssl.OPENSSL_VERSION,
        "os": platform.platform(),
    }
