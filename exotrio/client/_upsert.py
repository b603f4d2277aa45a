"""What an upsert of a graph sends and what its answers mean. Pure: sends nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from exotrio._http.response import Answer, invalid_response, problems_in
from exotrio._wire.vocabulary import ValidationStatus
from exotrio.errors import GraphInvalid
from exotrio.graph import CronTrigger, GraphNodeModel, RetryPolicyModel, StoreConfigModel

REFUSED = frozenset({400, 422})
"""Statuses by which a state manager says that the graph breaks rules."""
_REFERENCE = re.compile(r"\$\{\{\s*([^.}]*?)\s*\.\s*outputs\s*\.")


def graph_body(
    nodes: Sequence[GraphNodeModel],
    secrets: Mapping[str, str],
    retry_policy: RetryPolicyModel | None,
    store_config: StoreConfigModel | None,
    triggers: Sequence[CronTrigger] | None,
) -> dict[str, Any]:
    """Return the body of an upsert with only what was given, so that the server's defaults apply."""
    body: dict[str, Any] = {
        "secrets": dict(secrets),
        "nodes": [node.model_dump(mode="json") for node in nodes],
    }
    if retry_policy is not None:
        body["retry_policy"] = retry_policy.model_dump(mode="json")
    if store_config is not None:
        body["store_config"] = store_config.model_dump(mode="json")
    if triggers is not None:
        body["triggers"] = [
            {"type": "CRON", "value": {"expression": trigger.expression}} for trigger in triggers
        ]
    return body


def as_graph(answer: Answer, name: str) -> dict[str, Any]:
    """Return the graph in an answer.

    Raises:
        GraphInvalid: the answer refuses it; ``problems`` names each reason with its place.
        InvalidResponse: the answer is something else.
    """
    if answer.status in REFUSED:
        raise GraphInvalid(f"graph {name!r} is invalid", problems_in(answer.body))
    graph = answer.body
    if not isinstance(graph, dict) or "validation_status" not in graph:
        raise invalid_response(
            f"answered {answer.status}, but not with a graph", answer.asked, status=answer.status
        )
    return graph


def is_stale(graph: Mapping[str, Any], body: Mapping[str, Any]) -> bool:
    """Return whether ``graph`` is invalid for lack of an identifier that the ``body`` of its upsert has.

    A stock server validates references against the identifiers of the version before.
    """
    if graph["validation_status"] != ValidationStatus.INVALID:
        return False
    names = "|".join(re.escape(node["identifier"].strip()) for node in body["nodes"])
    unknown = re.compile(rf"(?<!\w)({names})(?!\w).*\bnot (exist|found)\b", re.DOTALL)
    return any(unknown.search(problem) for problem in _problems_of(graph))


def branch_references(body: Mapping[str, Any]) -> list[str]:
    """Return which united nodes refer to outputs of branches that they unite: only our server allows it."""
    before: dict[str, set[str]] = {}
    for node in body["nodes"]:
        for following in node["next_nodes"] or ():
            before.setdefault(following, set()).add(node["identifier"])
    problems = []
    for node in body["nodes"]:
        if node["unites"] is None:
            continue
        allowed, found = {"store"}, [node["unites"]["identifier"]]
        while found:
            identifier = found.pop()
            if identifier not in allowed:
                allowed.add(identifier)
                found += before.get(identifier, ())
        texts = [text for text in node["inputs"].values() if isinstance(text, str)]
        referred = {each for text in texts for each in _REFERENCE.findall(text)}
        problems += [
            f"node {node['identifier']!r} unites branches and refers to outputs of {each!r} in them: only "
            "exotrio's own state manager gives these, as a JSON array (python -m exotrio server)"
            for each in sorted(referred - allowed)
        ]
    return problems


def only_valid(graph: dict[str, Any], name: str) -> dict[str, Any]:
    """Return ``graph`` if it was found valid; raise GraphInvalid with what was found otherwise."""
    if graph["validation_status"] == ValidationStatus.VALID:
        return graph
    raise GraphInvalid(f"graph {name!r} is invalid", _problems_of(graph))


def _problems_of(graph: Mapping[str, Any]) -> list[str]:
    found = graph.get("validation_errors")
    return [str(problem) for problem in found] if isinstance(found, list) else []
