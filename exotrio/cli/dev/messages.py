"""The texts that ``dev`` prints. Pure."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from exotrio._util.settings import KEY_VARIABLE
from exotrio._util.words import listed
from exotrio.cli.dev.protocol import DeclaredGraph, Loaded
from exotrio.cli.exit_codes import ABANDONED, SUCCESS
from exotrio.cli.program import command_line

CONTINUES = "the runtime continues with the code as it was"


@dataclass(frozen=True, slots=True)
class ManagerAddress:
    """How clients reach the state manager.

    Attributes:
        url: Its address.
        key_file: Holds the API key; None if clients have it from their environment.
    """

    url: str
    key_file: Path | None

    def options(self, namespace: str) -> list[str]:
        """Return the options that make a command use it."""
        key = [] if self.key_file is None else ["--key-file", shown(str(self.key_file))]
        return ["--namespace", namespace, "--uri", self.url, *key]


def page_of(loaded: Loaded | None) -> str:
    """Return the first page of the dashboard: the one that starts runs, if there is a graph."""
    if loaded is None:
        return "/"
    parts = ["ns", loaded.namespace, *(["graphs", loaded.graphs[0].name] if loaded.graphs else [])]
    return "/" + "/".join(quote(part, safe="") for part in parts)


def dashboard(address: ManagerAddress, link: str) -> Iterator[str]:
    """Yield how to open the dashboard."""
    key = f"in {shown(str(address.key_file))}" if address.key_file else f"of {KEY_VARIABLE}"
    yield f"dashboard: {link}"
    yield f"  opens once, within 10 minutes; later {address.url} asks for the key {key}"


def how_to_start(address: ManagerAddress, loaded: Loaded) -> Iterator[str]:
    """Yield how a run is started."""
    options = address.options(loaded.namespace)
    if loaded.graphs:
        graph = loaded.graphs[0]
        command = ["trigger", graph.name, *_required(graph), *options, "--follow"]
        yield f"start a run with the button there, or with:\n  {command_line(command)}"
    else:
        command = ["graph", "apply", "FILE", *options]
        yield f"the file has no Graph; declare one with:\n  {command_line(command)}"


def _required(graph: DeclaredGraph) -> list[str]:
    """Return placeholders for the store keys that every trigger must give."""
    keys = graph.body["store_config"]["required_keys"]
    return [part for key in keys for part in ("--store", f"{key}=VALUE")]


def runtime(loaded: Loaded, before: Loaded | None) -> Iterator[str]:
    """Yield what runs now, and which graphs are no longer in the code.

    Args:
        loaded: The code that runs.
        before: The code that ran before.
    """
    graphs = f"; graph {listed(graph.name for graph in loaded.graphs)}" if loaded.graphs else ""
    yield f"runtime {loaded.runtime}: {listed(loaded.nodes)} (namespace {loaded.namespace}){graphs}"
    if before is not None and before.namespace == loaded.namespace:
        kept = {graph.name for graph in loaded.graphs}
        for graph in before.graphs:
            if graph.name not in kept:
                yield f"warning: graph {graph.name!r} is no longer in the code; the state manager keeps it"


def missing_nodes(graph: DeclaredGraph, loaded: Loaded) -> Iterator[str]:
    """Yield a line for each node of a valid graph that this Runtime lacks; an earlier one had it."""
    for place in graph.body["nodes"]:
        if place["namespace"] == loaded.namespace and place["node_name"] not in loaded.nodes:
            yield (
                f"warning: graph {graph.name!r}, node {place['identifier']!r}: the Runtime has no "
                f"{place['node_name']!r}, so its states wait for another runtime"
            )


def changed(files: Sequence[str], *, drains: bool = False) -> str:
    """Return that files changed, and what follows."""
    first = "the runtime drains, then " if drains else ""
    return f"{listed(map(shown, files), 3)} changed: {first}the code is loaded again"


def ended(code: int) -> str:
    """Return how the process of a runtime ended that was not asked to by ``dev``."""
    if code == SUCCESS:
        return "the runtime drained and ended, as requested by another command"
    if code == ABANDONED:
        return "the runtime ended and abandoned outcomes or claims; see the log above"
    if code < 0:
        return f"the runtime was killed by {_signal(-code)}; its claims were released"
    return f"the runtime ended with exit code {code}; its claims were released"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def shown(file: str) -> str:
    """Return the path of a file, relative if it is below this folder."""
    relative = os.path.relpath(file)
    return file if relative.startswith(os.pardir) else relative
