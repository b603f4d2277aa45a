"""Put a graph, and learn what the state manager makes of it."""

from __future__ import annotations

from typing import Any

from tests.contract.api import Api
from tests.support.helpers import eventually, ok

Place = dict[str, Any]


async def put(api: Api, *places: Place, **fields: Any) -> Any:
    """Register the places' nodes, put the graph and return the response."""
    await api.register_for([p for p in places if isinstance(p.get("inputs"), dict)])
    return await api.put_graph("g", api.body(places, **fields))


async def validity(api: Api, *places: Place, **fields: Any) -> tuple[str, list[str]]:
    """Put the graph, which has to pass groups A to F, and return what group G found."""
    ok(await api.put_graph("g", api.body(places, **fields)), 201)

    async def decided() -> Any:
        shown = ok(await api.get_graph("g"))
        assert shown["validation_status"] != "PENDING"
        return shown

    shown = await eventually(decided)
    return shown["validation_status"], shown["validation_errors"]
