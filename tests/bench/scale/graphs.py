"""What many graphs in many namespaces cost."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import trio

from exotrio import Graph, GraphNodeModel, Runtime, StateManager
from tests.bench.places import Where, server
from tests.bench.scale.place import Place, Row, memory, row, start_seconds
from tests.bench.work import NAMESPACE, Step

REPEATS = 20


def graphs(place: Place, options: argparse.Namespace) -> Iterator[Row]:
    each = max(options.graphs // options.namespaces, 1)
    with server(place.db) as (where, pid):
        begin = time.perf_counter()
        trio.run(_store_graphs, where, options.namespaces, each)
        yield row(
            "storing a graph", [(time.perf_counter() - begin) * 1000 / (each * options.namespaces)], "ms"
        )
        yield row("memory of the state manager", [memory(pid)], "MiB")
        yield from trio.run(_first_and_second, where, options.namespaces)
    yield row("start, until it listens", [start_seconds(place) for _ in range(5)], "s")
    with server(place.db) as (where, pid):
        yield from trio.run(_first_and_second, where, options.namespaces)
        yield row("memory, started again", [memory(pid)], "MiB")


async def _store_graphs(where: Where, namespaces: int, graphs: int) -> None:
    for number in range(namespaces):
        namespace = f"{NAMESPACE}-{number}"
        async with StateManager(namespace, **where) as manager, trio.open_nursery() as nursery:
            await nursery.start(Runtime(namespace, "bench", [Step], **where).run)
            for graph in range(graphs):
                places = [
                    GraphNodeModel(node_name="Step", namespace=namespace, identifier="step", inputs={"i": ""})
                ]
                await manager.upsert_graph(Graph(f"graph-{graph}", places))
            nursery.cancel_scope.cancel()


async def _first_and_second(where: Where, namespaces: int) -> list[Row]:
    """The first trigger of a graph reads it, the second one does not."""
    times: dict[str, list[float]] = {"first trigger of a graph": [], "second": []}
    for number in range(0, namespaces, max(namespaces // REPEATS, 1)):
        async with StateManager(f"{NAMESPACE}-{number}", **where) as manager:
            for name in times:
                begin = time.perf_counter()
                await manager.trigger("graph-0", inputs={"i": "1"})
                times[name].append((time.perf_counter() - begin) * 1000)
    return [row(name, values, "ms") for name, values in times.items()]
