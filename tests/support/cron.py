"""A graph with cron triggers, over HTTP, and how many runs there are of it."""

from __future__ import annotations

from typing import Any

import httpx

from tests.support.helpers import ok, place

N = "/v0/namespace/ns"


async def put(client: httpx.AsyncClient, *expressions: str, **fields: Any) -> httpx.Response:
    triggers = [{"type": "CRON", "value": {"expression": expression}} for expression in expressions]
    body = {"secrets": {}, "nodes": [place("a", namespace="ns")], "triggers": triggers, **fields}
    return await client.put(f"{N}/graph/g", json=body)


async def runs(client: httpx.AsyncClient) -> int:
    total: int = ok(await client.get(f"{N}/runs/1/1"))["total"]
    return total
