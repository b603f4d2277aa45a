"""One state manager seen from one namespace: every route as a method that returns the raw response."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx

from exotrio._wire.vocabulary import LEASE_HEADER
from tests.support.helpers import declare, ok


class Api:
    """Send the requests of the v0 and native APIs.

    Args:
        client: Bound to the server, with the key in its headers if the server wants one.
        namespace: Where every request goes.
    """

    def __init__(self, client: httpx.AsyncClient, namespace: str) -> None:
        self.client = client
        self.namespace = namespace

    @staticmethod
    def fresh_namespace() -> str:
        return f"contract-{uuid4().hex[:12]}"

    def elsewhere(self, namespace: str | None = None) -> Api:
        """Return the same server seen from another, by default a fresh, namespace."""
        return Api(self.client, namespace or self.fresh_namespace())

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.client.request(method, path, **options)

    async def v0(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.client.request(
            method, f"/v0/namespace/{quote(self.namespace, safe='')}/{path}", **options
        )

    async def native(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.client.request(
            method, f"/exotrio/v1/namespace/{quote(self.namespace, safe='')}/{path}", **options
        )

    # -- global routes

    async def health(self) -> httpx.Response:
        return await self.request("GET", "/health")

    async def namespaces(self) -> httpx.Response:
        return await self.request("GET", "/v0/namespaces")

    async def discover(self) -> httpx.Response:
        return await self.request("GET", "/exotrio/v1")

    # -- nodes and graphs

    async def register(
        self, nodes: Sequence[dict[str, Any]], runtime_name: str = "contract"
    ) -> httpx.Response:
        return await self.v0("PUT", "nodes/", json={"runtime_name": runtime_name, "nodes": list(nodes)})

    async def nodes(self) -> httpx.Response:
        return await self.v0("GET", "nodes/")

    def body(self, places: Iterable[dict[str, Any]], **fields: Any) -> dict[str, Any]:
        """Return a graph body whose places live in this namespace unless they name another."""
        return {
            "secrets": {},
            "nodes": [{"namespace": self.namespace, **place} for place in places],
            **fields,
        }

    async def put_graph(self, name: str, body: dict[str, Any]) -> httpx.Response:
        return await self.v0("PUT", f"graph/{quote(name, safe='')}", json=body)

    async def get_graph(self, name: str) -> httpx.Response:
        return await self.v0("GET", f"graph/{quote(name, safe='')}")

    async def cancel_triggers(self, name: str) -> httpx.Response:
        return await self.v0("DELETE", f"graph/{quote(name, safe='')}/triggers")

    async def delete_graph(self, name: str, **query: str) -> httpx.Response:
        return await self.native("DELETE", f"graph/{quote(name, safe='')}", params=query)

    async def graphs(self) -> httpx.Response:
        return await self.v0("GET", "graphs/")

    async def register_for(
        self,
        places: Iterable[dict[str, Any]],
        outputs: Iterable[str] = ("v", "w"),
        secrets: Sequence[str] = (),
    ) -> None:
        """Register the node of every place, each with its place's inputs as string fields."""
        by_namespace: dict[str, dict[str, dict[str, Any]]] = {}
        for place in (each for each in places if not {"wait", "graph"} & each.keys()):
            declared = by_namespace.setdefault(place.get("namespace", self.namespace), {})
            name = place["node_name"]
            declared[name] = declare(name, list(place["inputs"]), outputs, secrets)
        for namespace, nodes in by_namespace.items():
            ok(await self.elsewhere(namespace).register(list(nodes.values())))

    # -- runs

    async def trigger(
        self,
        graph: str,
        inputs: dict[str, Any] | None = None,
        store: dict[str, Any] | None = None,
        start_delay: Any = 0,
    ) -> httpx.Response:
        body = {"inputs": inputs or {}, "store": store or {}, "start_delay": start_delay}
        return await self.v0("POST", f"graph/{quote(graph, safe='')}/trigger", json=body)

    async def runs(self, page: Any = 1, size: Any = 20) -> httpx.Response:
        return await self.v0("GET", f"runs/{page}/{size}")

    async def run_graph(self, run_id: str) -> httpx.Response:
        return await self.v0("GET", f"states/run/{run_id}/graph")

    async def state(self, graph: str, run_id: str, state_id: str) -> httpx.Response:
        return await self.v0("GET", f"graph/{quote(graph, safe='')}/run/{run_id}/node/{state_id}")

    # -- claim and outcomes

    async def claim(self, nodes: Iterable[str], batch_size: Any = 16) -> httpx.Response:
        return await self.v0("POST", "states/enqueue", json={"nodes": list(nodes), "batch_size": batch_size})

    async def executed(self, state_id: str, *outputs: dict[str, Any]) -> httpx.Response:
        return await self.v0("POST", f"state/{state_id}/executed", json={"outputs": list(outputs)})

    async def errored(self, state_id: str, error: str = "failed on purpose") -> httpx.Response:
        return await self.v0("POST", f"state/{state_id}/errored", json={"error": error})

    async def prune(self, state_id: str, data: dict[str, Any] | None = None) -> httpx.Response:
        return await self.v0("POST", f"state/{state_id}/prune", json={"data": data or {}})

    async def requeue(self, state_id: str, enqueue_after: Any = 1) -> httpx.Response:
        return await self.v0(
            "POST", f"state/{state_id}/re-enqueue-after", json={"enqueue_after": enqueue_after}
        )

    async def manual_retry(self, state_id: str, fanout_id: str | None = None, **more: Any) -> httpx.Response:
        body = {"fanout_id": str(uuid4()) if fanout_id is None else fanout_id, **more}
        return await self.v0("POST", f"state/{state_id}/manual-retry", json=body)

    async def secrets(self, state_id: str, token: str | None = None) -> httpx.Response:
        headers = {} if token is None else {LEASE_HEADER: token}
        return await self.v0("GET", f"state/{state_id}/secrets", headers=headers)

    # -- native

    async def native_claim(
        self,
        limits: dict[str, int],
        *,
        limit: int = 100,
        claim_id: str | None = None,
        wait_ms: int = 0,
        worker_id: str = "contract-worker",
        **more: Any,
    ) -> httpx.Response:
        return await self.native(
            "POST",
            "claim",
            json={
                "worker_id": worker_id,
                "limits": limits,
                "limit": limit,
                "wait_ms": wait_ms,
                "claim_id": claim_id or str(uuid4()),
                **more,
            },
        )

    async def outcomes(self, *items: dict[str, Any]) -> httpx.Response:
        return await self.native("POST", "outcomes", json=list(items))

    async def release(self, **body: Any) -> httpx.Response:
        return await self.native("POST", "release", json=body)

    async def native_trigger(self, graph: str, run_id: str, **body: Any) -> httpx.Response:
        return await self.native(
            "POST", f"graph/{quote(graph, safe='')}/trigger", json={"run_id": run_id, **body}
        )

    async def trigger_many(self, graph: str, *runs: dict[str, Any]) -> httpx.Response:
        path = f"graph/{quote(graph, safe='')}/runs"
        return await self.native("POST", path, json={"runs": list(runs)})

    async def native_run(self, run_id: str, wait_ms: int | str | None = None) -> httpx.Response:
        params = {} if wait_ms is None else {"wait_ms": str(wait_ms)}
        return await self.native("GET", f"run/{run_id}", params=params)

    async def retry_run(self, run_id: str, request_id: str | None = None, **more: Any) -> httpx.Response:
        body = {"request_id": request_id or str(uuid4()), **more}
        return await self.native("POST", f"run/{run_id}/retry", json=body)

    async def history(self, state_id: str) -> httpx.Response:
        return await self.native("GET", f"state/{state_id}")

    async def states(self, **query: Any) -> httpx.Response:
        return await self.native("GET", "states", params=query)

    async def depth(self, **query: Any) -> httpx.Response:
        return await self.native("GET", "depth", params=query)

    async def overview(self, **query: Any) -> httpx.Response:
        return await self.native("GET", "overview", params=query)

    async def checkup(self) -> httpx.Response:
        return await self.native("GET", "checkup")

    async def heartbeat(self, worker_id: str = "contract-worker", **body: Any) -> httpx.Response:
        return await self.native("POST", "heartbeat", json={"worker_id": worker_id, **body})

    async def workers(self) -> httpx.Response:
        return await self.native("GET", "workers")

    async def worker(self, method: str, worker_id: str, what: str) -> httpx.Response:
        return await self.native(method, f"worker/{quote(worker_id, safe='')}/{what}")

    async def find_runs(self, **query: Any) -> httpx.Response:
        return await self.native("GET", "runs", params=query)
