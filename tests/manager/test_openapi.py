"""``/openapi.json`` and ``/docs``: what they say is what the routes do."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from exotrio.manager import create_app
from exotrio.manager.api import openapi
from exotrio.manager.api.routing import ApiRoute
from tests.support.helpers import ok, open_client
from tests.support.manager import KEY, open_manager

REFS = "#/components/schemas/"


@asynccontextmanager
async def described(**options: Any) -> AsyncIterator[tuple[dict[str, Any], httpx.AsyncClient]]:
    """Give the document, as anybody gets it, and a client with the key."""
    async with open_manager() as manager:
        transport = httpx.ASGITransport(create_app(manager.service, key=KEY, **options))
        async with (
            open_client(transport=transport) as anybody,
            open_client(transport=transport, key=KEY) as client,
        ):
            yield ok(await anybody.get("/openapi.json")), client


def refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from refs(each)


async def test_a_route_reads_the_described_body() -> None:
    async with described() as (document, client):
        bodies = 0
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if "requestBody" not in operation:
                    continue
                bodies += 1
                url = re.sub(r"\{\w+\}", "x", path)
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                answer = await client.request(method, url, content=b"{}")
                model = document["components"]["schemas"].get(schema.get("$ref", "").removeprefix(REFS))
                if model is None:  # a list, or one in an object
                    assert answer.status_code == 422, url
                    continue
                required = {("body", name) for name in model.get("required", ())}
                details = answer.json()["detail"] if answer.status_code == 422 else []
                missing = {tuple(each["loc"]) for each in details if each["type"] == "missing"}
                assert missing == required, url
        assert bodies > 10


async def test_every_reference_in_the_document_has_a_target() -> None:
    async with described() as (document, _):
        references = set(refs(document))
        assert len(references) > 50
        assert {each.removeprefix(REFS) for each in references} <= document["components"]["schemas"].keys()
        assert document["openapi"].startswith("3.1")


@pytest.mark.parametrize("native", [True, False])
async def test_exactly_the_served_routes_are_described(native: bool) -> None:
    async with described(native=native) as (document, client):
        assert any(path.startswith("/exotrio/") for path in document["paths"]) == native
        assert "/v0/namespace/{namespace}/graph/{graph}" in document["paths"]
        answer = await client.get("/docs")
        page = answer.text
        for path in document["paths"]:
            assert path in page
        assert not re.search(r"<script|<link|<img|src=|@import|https?://", page), "it loads nothing"
        assert 'href="/guide' not in page, "there is no dashboard"
        assert set(re.findall(r'href="#([^"]+)"', page)) <= set(re.findall(r'id="([^"]+)"', page))
        assert "default-src 'none'" in answer.headers["content-security-policy"]


async def test_open_routes_are_described_as_open() -> None:
    async with described() as (document, client):
        client.headers.pop("x-api-key")
        for path, methods in document["paths"].items():
            if "get" in methods and path != "/metrics":
                answer = await client.get(re.sub(r"\{\w+\}", "1", path))
                assert (answer.status_code == 401) == (methods["get"].get("security") != []), path


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
async def test_simultaneous_requests_make_the_description_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    made = []
    document_of = openapi.document_of

    def counted(routes: Iterable[ApiRoute]) -> dict[str, Any]:
        made.append(path)
        return document_of(routes)

    monkeypatch.setattr(openapi, "document_of", counted)
    async with open_manager(tmp_path / "state.db") as manager:
        transport = httpx.ASGITransport(create_app(manager.service, key=KEY))
        async with open_client(transport=transport) as client, trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(client.get, path)
    assert made == [path]
