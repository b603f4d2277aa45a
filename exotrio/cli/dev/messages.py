"""The texts that ``dev`` prints. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from exotrio._shared.settings import KEY_VARIABLE
from exotrio._util.words import listed
from exotrio.cli.file_process import Loaded
from exotrio.cli.program import command_line
from exotrio.graph import WITHOUT_RUNTIME

MAX_NAMED = 3
"""Up to this number, all changed files are named."""
CONTINUES = "the runtime continues with the code as it was"


def page_of(loaded: Loaded | None) -> str:
    """Return the first page of the dashboard: the one that starts runs, if there is a graph."""
    if loaded is None:
        return "/"
    parts = ["ns", loaded.namespace, *(["graphs", next(iter(loaded.graphs))] if loaded.graphs else [])]
    return "/" + "/".join(quote(part, safe="") for part in parts)


def dashboard(url: str, key_file: Path | None, link: str) -> str:
    """Return how to open the dashboard; without a file, clients read the key from their environment."""
    key = f"in {shown(str(key_file))}" if key_file else f"of {KEY_VARIABLE}"
    return f"dashboard: {link}\n  opens once, within 10 minutes; later {url} asks for the key {key}"


def how_to_start(url: str, key_file: Path | None, loaded: Loaded) -> str:
    key = [] if key_file is None else ["--key-file", shown(str(key_file))]
    options = ["--namespace", loaded.namespace, "--uri", url, *key]
    if not loaded.graphs:
        command = command_line(["graph", "apply", "FILE", *options])
        return f"the file has no Graph; declare one with:\n  {command}"
    graph, body = next(iter(loaded.graphs.items()))
    required = body["store_config"]["required_keys"]  # every trigger must give these
    store = [part for key in required for part in ("--store", f"{key}=VALUE")]
    command = command_line(["trigger", graph, *store, *options, "--follow"])
    return f"start a run with the button there, or with:\n  {command}"


def runtime(loaded: Loaded, before: Loaded | None) -> Iterator[str]:
    """Yield what the runtime runs, and which graphs are no longer in the code."""
    graphs = f"; graph {listed(loaded.graphs)}" if loaded.graphs else ""
    yield f"runtime {loaded.runtime}: {listed(loaded.nodes)} (namespace {loaded.namespace}){graphs}"
    if before is not None and before.namespace == loaded.namespace:
        for graph in before.graphs:
            if graph not in loaded.graphs:
                yield f"warning: graph {graph!r} is no longer in the code; the state manager keeps it"


def missing_nodes(graph: str, loaded: Loaded) -> Iterator[str]:
    """Yield a line for each node of a valid graph that this Runtime lacks; an earlier one had it."""
    for node in loaded.graphs[graph]["nodes"]:
        known = (*loaded.nodes, *WITHOUT_RUNTIME)
        if node["namespace"] == loaded.namespace and node["node_name"] not in known:
            yield (
                f"warning: graph {graph!r}, node {node['identifier']!r}: the Runtime has no "
                f"{node['node_name']!r}, so its states wait for another runtime"
            )


def changed(files: Sequence[str], *, drains: bool = False) -> str:
    """Return which files changed, and what ``dev`` does now."""
    first = "the runtime drains, then " if drains else ""
    if len(files) <= MAX_NAMED:
        what = f"{listed(map(shown, files))} changed"
    else:
        what = f"{len(files):,} files changed, {shown(files[0])} and {shown(files[1])} among them"
    return f"{what}: {first}the code is loaded again"


def shown(file: str) -> str:
    """Return the path of a file, relative if it is below this folder."""
    relative = os.path.relpath(file)
    return file if relative.startswith(os.pardir) else relative
