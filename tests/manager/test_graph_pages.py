"""Long lists of graphs: by pages natively, and as one body that is never in memory as a whole through v0."""

from __future__ import annotations

import pytest

from exotrio import StateManager
from exotrio.manager.queries import graphs
from exotrio.manager.queries.paging import Page
from exotrio.manager.store.view import View
from tests.contract.api import Api
from tests.support.helpers import ok, place
from tests.support.manager import ENGINES, embedded_in, open_two

NAMES = ["Ä", "a", "b-1", "b-2", "Z", "large", "z"]


async def put_graphs(api: Api) -> None:
    await api.register_for([place("x")])
    for name in NAMES:
        inputs = {"p": "x" * (3_000 if name == "large" else 10)}
        ok(await api.put_graph(name, api.body([place("x", inputs=inputs)], secrets={"token": "t"})), 201)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the number of graphs on each page that was made, in order."""
    made: list[int] = []
    list_graphs = graphs.list_graphs

    def noted(view: View, namespace: str, after: str = "") -> Page[bytes]:
        page = list_graphs(view, namespace, after)
        made.append(len(page.rows))
        return page

    monkeypatch.setattr(graphs, "list_graphs", noted)
    return made


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_list_of_v0_is_the_same_whether_it_is_made_by_pages_or_at_once(
    engine: str, monkeypatch: pytest.MonkeyPatch, pages: list[int]
) -> None:
    async with open_two(engine) as (manager, _):
        await put_graphs(manager.api)
        at_once = await manager.api.graphs()
        assert pages == [len(NAMES)]
        monkeypatch.setattr(graphs, "MAX_PAGE_BYTES", 1_000)
        by_pages = await manager.api.graphs()
        assert len(pages) > 3
        assert sum(pages) == 2 * len(NAMES)
        assert by_pages.content == at_once.content
        assert by_pages.headers["content-type"] == at_once.headers["content-type"] == "application/json"
        assert ok(by_pages)["count"] == len(NAMES)
        assert sorted(each["name"] for each in ok(by_pages)["templates"]) == sorted(NAMES)


async def test_a_client_follows_the_pages_and_gets_what_v0_has(
    engine: str, monkeypatch: pytest.MonkeyPatch, pages: list[int]
) -> None:
    async with open_two(engine) as (manager, _):
        await put_graphs(manager.api)
        expected = [each["name"] for each in ok(await manager.api.graphs())["templates"]]
        monkeypatch.setattr(graphs, "MAX_PAGE_GRAPHS", 2)
        pages.clear()
        async with StateManager("tests", transport=embedded_in(manager.service)) as client:
            shown = await client.graphs()
        assert [graph.name for graph in shown] == expected
        assert pages == [2, 2, 2, 1]
        assert shown[0].secrets == {"token": True}
        assert shown[0].id


async def test_a_namespace_without_graphs_has_one_empty_page() -> None:
    async with open_two("SQLite") as (manager, _):
        assert ok(await manager.api.native("GET", "graphs")) == {"graphs": [], "next": None}
