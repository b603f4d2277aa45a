"""The two links by themselves, and what state managers answer to claims."""

from __future__ import annotations

from typing import Any

import httpx

from exotrio._http.client import HttpClient
from exotrio._link.native import NativeLink
from exotrio._link.port import Claim
from exotrio._link.v0 import V0Link
from exotrio._nodes.outcome import Released
from tests.support.http_doubles import Double, Handler, answer


def v0_link(handler: Handler, **options: Any) -> tuple[V0Link, Double]:
    double = Double(handler)
    return V0Link(HttpClient(double.endpoint, tasks=50), "ns", **options), double


def native_link(handler: Handler) -> tuple[NativeLink, Double]:
    double = Double(handler)
    http = HttpClient(double.endpoint, tasks=50)
    return NativeLink(http, "ns", worker_id="me", v0=V0Link(http, "ns")), double


def released(*claims: Claim) -> list[tuple[Claim, Released]]:
    return [(claim, Released()) for claim in claims]


def v0_state(state_id: str, **changes: Any) -> dict[str, Any]:
    place = {"node_name": "Digest", "identifier": "d"}
    return {"state_id": state_id, **place, "inputs": {}, "created_at": "now", **changes}


def v0_claimed(*states: Any) -> httpx.Response:
    return answer(200, {"count": len(states), "namespace": "ns", "status": "QUEUED", "states": list(states)})


def native_state(state_id: str, **changes: Any) -> dict[str, Any]:
    lease = {"token": f"t-{state_id}", "ttl_ms": 60_000, "attempt": 1, "deliveries": 0}
    return {**v0_state(state_id), "graph_name": "g", "run_id": "r", "lease": lease, **changes}
