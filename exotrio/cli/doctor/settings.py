"""Every setting with its source, and the versions of Python, exotrio and libraries."""

from __future__ import annotations

import platform
import sqlite3
import ssl
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import exotrio
from exotrio._http.endpoint import Endpoint
from exotrio._util.settings import (
    CORS_VARIABLE,
    ENV_FILE,
    KEY_VARIABLE,
    NAMESPACE_VARIABLE,
    SECRET_VARIABLES,
    SECRETS_KEY_VARIABLE,
    SERVER_KEY_VARIABLE,
    URI_VARIABLE,
    VARIABLES,
)
from exotrio.cli.connection import how_to_give_a_key, read_key
from exotrio.cli.doctor.findings import Finding, info
from exotrio.cli.doctor.sources import Sources, read_sources
from exotrio.cli.terminal.words import meant
from exotrio.errors import ConfigurationError

PACKAGES = ("trio", "anyio", "httpx", "httpcore", "h11", "pydantic", "pydantic-core", "starlette", "rich")
_UNSET = {
    SERVER_KEY_VARIABLE: "`server` uses EXOSPHERE_API_KEY, or generates a key beside its database",
    SECRETS_KEY_VARIABLE: "`server` keeps a key beside its database",
    CORS_VARIABLE: "`server` allows no other origin",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        value: As it may be printed; None if it is not set.
        source: Where it came from; if it is not set, what happens then.
    """

    name: str
    value: str | None
    source: str


@dataclass(slots=True)
class Settings:
    """All settings, and what follows from them.

    Attributes:
        uri, key, namespace: The values that are used; None if they are not set.
        problems: What stops every command.
        findings: Further findings.
    """

    shown: list[Setting]
    uri: str | None
    key: str | None = field(repr=False)
    namespace: str | None
    problems: list[Finding]
    findings: list[Finding]


def examine_settings(namespace: str | None, uri: str | None, key_file: Path | None) -> Settings:
    """Return the settings, from options, the environment and ``.env``.

    Args:
        namespace, uri, key_file: Options, if they were given.
    """
    sources = read_sources()
    findings = _of_file(sources)
    problems = []
    if sources.problem is not None:
        problems.append(Finding(sources.problem.what, sources.problem.fix))
    given = {URI_VARIABLE: (uri, "--uri"), NAMESPACE_VARIABLE: (namespace, "--namespace")}
    if key_file is not None:
        try:
            given[KEY_VARIABLE] = (read_key(key_file), f"--key-file {key_file}")
        except ConfigurationError as error:
            problems.append(Finding(error.what, error.fix))
            # Do not use the key of the environment instead.
            given[KEY_VARIABLE] = ("", f"--key-file {key_file}, which cannot be read")
    found: dict[str, str | None] = {}
    shown = []
    for name in VARIABLES:
        value, source = _resolve(name, sources, given.get(name))
        found[name] = value or None
        shown.append(Setting(name, _as_shown(name, value), source))
        both = name in sources.environment and name in sources.file and source == "environment"
        if both and sources.environment[name] != sources.file[name]:
            what = f"{name} is in {ENV_FILE} too, with another value: the one in the environment is used"
            findings.append(info(what))
    state = "does not exist"
    if sources.exists:
        state = "is a folder, not read" if sources.path.is_dir() else "was read"
    if sources.problem:
        state = "cannot be read"
    shown.append(Setting(ENV_FILE, str(sources.path), state))
    return Settings(
        shown, found[URI_VARIABLE], found[KEY_VARIABLE], found[NAMESPACE_VARIABLE], problems, findings
    )


def missing(settings: Settings) -> list[Finding]:
    """Return findings about settings that are needed and not set."""
    findings = []
    if settings.uri is None:
        findings.append(
            Finding(
                "no state manager is given",
                f"give --uri http://127.0.0.1:8000, or set {URI_VARIABLE}; "
                "a local one: python -m exotrio server",
            )
        )
    if settings.key is None:
        findings.append(Finding("no API key is given", how_to_give_a_key()))
    return findings


def _of_file(sources: Sources) -> list[Finding]:
    findings = []
    for line in sources.unparsed:
        what = f"{ENV_FILE}, line {line}, is not a setting and was skipped"
        findings.append(Finding(what, "write NAME=value in it, or # before it"))
    for name in sources.unread:
        hint = meant(name, VARIABLES)
        findings.append(info(f"{name} is set and not used{hint}", "rename or remove it"))
    return findings


def _resolve(name: str, sources: Sources, given: tuple[str | None, str] | None) -> tuple[str | None, str]:
    if given is not None and given[0] is not None:
        return given[0], f"option {given[1]}"
    if name in sources.environment:
        return sources.environment[name], "environment"
    if name in sources.file:
        return sources.file[name], f"{ENV_FILE} in {sources.path.parent}"
    return None, _UNSET.get(name, "")


def _as_shown(name: str, value: str | None) -> str | None:
    if not value:
        return None
    if name in SECRET_VARIABLES:
        # Not even a part of it, from which a short key could be guessed.
        return f"set, {len(value)} characters"
    return Endpoint(value, None).shown if name == URI_VARIABLE else value


def versions() -> dict[str, str]:
    """Return the version of each component by its name."""
    found = {
        "exotrio": f"{version('exotrio')} in {Path(exotrio.__file__).parent}",
        "python": f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}",
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return {
        **found,
        "sqlite": sqlite3.sqlite_version,
        "openssl": ssl.OPENSSL_VERSION,
        "os": platform.platform(),
    }
