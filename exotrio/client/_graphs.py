"""What the public client does with graphs: upsert one and wait for its validation, read, list."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import anyio
from pydantic import ValidationError

from exotrio._http.response import Answer, invalid_response, problems_in
from exotrio._util.words import readable_errors
from exotrio._wire.graphs import GraphBody, GraphInfo, GraphPage, GraphsQuery, GraphsReply
from exotrio._wire.vocabulary import Capability, Priority, ValidationStatus
from exotrio.client._calls import Calls
from exotrio.errors import GraphInvalid, ManagerUnavailable

REFUSED = frozenset({400, 422})
"""Statuses for a graph that breaks rules."""
START_FIRST = (
    "check the names of nodes and namespaces; or first start the runtime that has these nodes (it registers"
    " them), then upsert the graph again"
)
_UNREGISTERED = re.compile(
    r"is not registered in namespace|^Node .* in namespace .* does not exist", re.DOTALL
)
"""The problem of a node that no runtime has registered, in the words of our state manager and a stock one."""
OUR_UNITES = (
    "if a node that unites branches refers to outputs in them: only exotrio's own state manager gives these"
    " (python -m exotrio server)"
)
FIRST_PAUSE, MAX_PAUSE = 0.05, 1.0


def pauses(max_pause: float = MAX_PAUSE) -> Iterator[float]:
    """Yield the seconds between two requests for something that is to change soon."""
    pause = FIRST_PAUSE
    while True:
        yield min(pause, max_pause)
        pause *= 2


async def get_graph(calls: Calls, name: str) -> dict[str, Any]:
    """Return a graph as the state manager has it."""
    path = calls.v0("graph", name)
    return _as_graph(await calls.repeat(lambda: calls.http.ask("GET", path)), name)


async def list_graphs(calls: Calls) -> list[GraphInfo]:
    """Return all graphs, page by page from our server."""

    async def native() -> list[GraphInfo]:
        graphs: list[GraphInfo] = []
        after: str | None = ""
        while after is not None:
            path = calls.native("graphs", query=GraphsQuery(after=after))
            page = await calls.fetch(GraphPage, "GET", path)
            graphs += page.graphs
            after = page.next
        return graphs

    async def v0() -> list[GraphInfo]:
        return (await calls.fetch_list(GraphsReply, "graphs", "")).templates

    return await calls.prefer_native(native, v0)


async def upsert_graph(
    calls: Calls, name: str, body: GraphBody, *, validation_timeout: float, polling_interval: float
) -> dict[str, Any]:
    """Create or replace a graph and return it once it is validated."""
    give_up = anyio.current_time() + validation_timeout
    for _ in range(2):
        graph = await _put(calls, name, body, give_up, validation_timeout, polling_interval)
        if not _is_stale(graph, body):  # the second, identical PUT is compared with the first
            break
    if graph["validation_status"] != ValidationStatus.VALID:
        problems = _problems_of(graph)
        fix = START_FIRST if any(map(_UNREGISTERED.search, problems)) else ""
        if not fix and any(problem.startswith("secrets: ") for problem in problems):
            fix = "give it in secrets= of the Graph, or with --secret NAME of run, dev and graph apply"
        raise GraphInvalid(f"graph {name!r} is invalid", problems, fix=fix)
    return graph


async def _put(
    calls: Calls, name: str, body: GraphBody, give_up: float, timeout: float, polling_interval: float
) -> dict[str, Any]:
    """Put a graph and return it once it is no longer PENDING."""
    for capability, what, instead in _needs(body):
        await calls.require(capability, f"graph {name!r} cannot be stored with {what}", instead)
    path = calls.v0("graph", name)
    # The nodes are named here, too: an earlier state manager next to that one would ignore the version.
    body = body.pinned()
    content = body.model_dump(mode="json", include=body.model_fields_set)  # the server has its own defaults
    answer = await calls.repeat(
        lambda: calls.http.ask("PUT", path, body=content, accept=REFUSED, close_after=True)
    )
    unites = any(node.unites is not None for node in body.nodes)
    if answer.status in REFUSED and unites and not await calls.is_native():
        raise GraphInvalid(f"graph {name!r} is refused", problems_in(answer.body), fix=OUR_UNITES)
    graph = _as_graph(answer, name)
    # Soon at first: until the second PUT of a graph that has grown, no next states can be created.
    waits = pauses(polling_interval)
    while graph["validation_status"] == ValidationStatus.PENDING:
        if anyio.current_time() > give_up:
            raise ManagerUnavailable(
                f"graph {name!r} is still not validated after {timeout} s",
                where=f"request: {answer.request_line}",
                fix="wait longer (validation_timeout), or see what keeps the state manager busy",
            )
        await anyio.sleep(next(waits))
        graph = await get_graph(calls, name)
    return graph


def _needs(body: GraphBody) -> Iterator[tuple[Capability, str, str]]:
    """Yield what in a graph a server would ignore that lacks a capability, and what to do instead."""
    nodes = body.nodes
    if body.limits or any(node.limits for node in nodes):
        yield Capability.LIMITS, "limits", "remove them"
    if any(node.retry_policy is not None or node.timeout is not None for node in nodes):
        yield Capability.NODE_POLICIES, "a retry_policy or timeout of a node", "remove them"
    if any(node.wait is not None for node in nodes):
        yield Capability.EVENTS, "places that wait for events", ""
    if body.outputs or any(node.graph is not None for node in nodes):
        yield Capability.CHILDREN, "outputs, or with places that run graphs", ""
    if any(node.when is not None or node.otherwise for node in nodes):
        yield Capability.BRANCHES, "branches (when, otherwise)", "let the nodes decide what they do"
    if any(each.priority != Priority.NORMAL for each in body.triggers):
        yield Capability.ORDER, "a priority of a trigger", "remove it"
    if body.on_failure is not None:
        yield Capability.ON_FAILURE, "on_failure", "remove it"
    if body.version is not None:
        yield Capability.VERSIONS, "a version", "remove it"


# -- what is sent, and what answers mean


def graph_body(name: str, parts: Mapping[str, Any]) -> GraphBody:
    """Return the body of an upsert of a graph that has these parts.

    Raises:
        GraphInvalid: the state manager would refuse it; ``problems`` names each reason with its place.
    """
    try:
        return GraphBody.of_parts(**parts)
    except ValidationError as error:
        raise GraphInvalid(f"graph {name!r} is invalid", readable_errors(error)) from None  # values: secrets


def _as_graph(answer: Answer, name: str) -> dict[str, Any]:
    """Return the graph in an answer.

    Raises:
        GraphInvalid: the answer refuses it; ``problems`` names each reason with its place.
        InvalidResponse: the answer is not a graph.
    """
    if answer.status in REFUSED:
        raise GraphInvalid(f"graph {name!r} is invalid", problems_in(answer.body))
    graph = answer.body
    if not isinstance(graph, dict) or "validation_status" not in graph:
        raise invalid_response(
            f"answered {answer.status}, but not with a graph", answer.request_line, status=answer.status
        )
    return graph


def _is_stale(graph: Mapping[str, Any], body: GraphBody) -> bool:
    """Return whether ``graph`` is invalid since an identifier is missing that the ``body`` of its upsert has.

    A stock server validates references against the identifiers of the version before.
    """
    if graph["validation_status"] != ValidationStatus.INVALID:
        return False
    names = "|".join(re.escape(node.identifier.strip()) for node in body.nodes)
    unknown = re.compile(rf"(?<!\w)({names})(?!\w).*\bnot (exist|found)\b", re.DOTALL)
    return any(unknown.search(problem) for problem in _problems_of(graph))


def _problems_of(graph: Mapping[str, Any]) -> list[str]:
    problems = graph.get("validation_errors")
    return [str(problem) for problem in problems] if isinstance(problems, list) else []
