"""The graphs of ``users``, whose runs are cancelled, retried, moved and deleted while all goes on.

``orders`` has a fan-out to nodes of all kinds under two limits, and a join. Those in threads and on asyncio
ignore that they are cancelled. ``asked`` waits for an event and then runs ``orders``; ``calls`` has it run
twice.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from exotrio import Graph, RetryPolicyModel
from tests.chaos.graph import NAMESPACE as OF_NODES
from tests.chaos.graph import VERSIONS

NAMESPACE = "users"
JOURNAL = "journal-of-users"
ITEMS = 2
SECONDS = 0.2
"""That each of the limited nodes takes."""
LONG_SECONDS = 7.0
"""That one takes on asyncio in some runs: longer than its runtime waits for one that was cancelled."""
FAILS, LONG = "fails", "long"
"""Moods of a run. One whose runs fail does so until ``mend`` is done."""
HANDS, CUSTOMER = "hands", "customer"
"""Limits."""
MAX_HANDS, MAX_OF_CUSTOMER = 4, 2
LIMITED = ("on_trio", "on_thread", "on_asyncio", "in_process")
CLASSES = ("OnTrio", "OnThread", "OnAsyncio", "InProcess")
"""Names of the limited nodes, in the same order."""
TOTAL = len(LIMITED) * sum(range(1, ITEMS + 1))
"""The result of ``orders``."""
NAMES = frozenset({"begin", "order", "ontrio", "onthread", "onasyncio", "inprocess", "total", "callorders"})
"""Names of the nodes, in lower case."""


def work_of(run: str, node: str, inputs: Mapping[str, str]) -> str:
    """Return what the journal calls the work of a node, given the name of its class."""
    limited = {name: identifier for identifier, name in zip(LIMITED, CLASSES, strict=True)}
    name = limited.get(node, node.lower())
    index, customer = (inputs[each] if name in LIMITED else "" for each in ("index", "customer"))
    return f"{run}/{name}/{index}/{customer}"


def pinned(version: str) -> str:
    """Return the name of the graph that is ``orders`` of a version."""
    return f"orders-{version}"


def graphs() -> list[Graph]:
    """Return all graphs, each after those that it runs."""
    orders = orders_graph("orders")
    asked = Graph("asked", namespace=NAMESPACE)
    go = asked.wait("go", Go)
    asked.output("total", asked.add(orders, mood=go.mood, customer=go.customer).total)
    calls = Graph("calls", namespace=OF_NODES)
    calls.add("CallOrders", customer=calls.store("customer"))
    return [orders, asked, calls, *(orders_graph(pinned(version), version) for version in VERSIONS)]


def orders_graph(name: str, version: str | None = None) -> Graph:
    made = Graph(name, namespace=OF_NODES, retry_policy=RetryPolicyModel(max_retries=3), version=version)
    begin = made.add("Begin", mood=made.store("mood", default=""), customer=made.store("customer"))
    order = made.add("Order", mood=begin.mood, customer=begin.customer)
    limits = [
        made.limit(HANDS, at_most=MAX_HANDS),
        made.limit(CUSTOMER, at_most=MAX_OF_CUSTOMER).for_key(order.customer),
    ]
    parts = [
        made.add(
            name,
            identifier=identifier,
            mood=order.mood,
            index=order.index,
            customer=order.customer,
            limits=limits,
        )
        for identifier, name in zip(LIMITED, CLASSES, strict=True)
    ]
    values = {identifier: part.every.value for identifier, part in zip(LIMITED, parts, strict=True)}
    total = made.add("Total", unites=begin, inputs=values)
    made.output("total", total.total)
    return made


class Go(BaseModel):
    """The event for which ``asked`` waits."""

    mood: str
    customer: str
