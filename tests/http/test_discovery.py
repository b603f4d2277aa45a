"""How a state manager is recognized."""

from __future__ import annotations

import httpx
import pytest

from exotrio._http.discovery import discover
from exotrio.errors import ManagerUnavailable
from tests.support.http_doubles import Handler, answer, client_for, no_nodes


def by_route(root: httpx.Response, nodes: httpx.Response) -> Handler:
    return lambda request: root if request.url.path == "/exotrio/v1" else nodes


NOT_HERE = answer(404, {"detail": "Not Found"})
OURS = answer(200, {"version": "1", "capabilities": []})
NEWER = answer(200, {"version": "2", "capabilities": []})


@pytest.mark.parametrize(
    ("root", "nodes", "version"),
    [(OURS, NOT_HERE, "1"), (NOT_HERE, no_nodes(), None), (NEWER, no_nodes(), "2")],
)
async def test_ours_is_known_by_its_native_root_and_another_by_its_list_of_nodes(
    root: httpx.Response, nodes: httpx.Response, version: str | None
) -> None:
    http, _ = client_for(by_route(root, nodes))
    native = await discover(http, "ns")
    assert (native and native.version) == version


async def test_ours_is_known_if_a_gateway_without_its_route_answers_only_the_first_request() -> None:
    answers = iter([NOT_HERE, no_nodes(), OURS])
    http, _ = client_for(lambda _: next(answers))
    native = await discover(http, "ns")
    assert native is not None
    assert native.version == "1"


@pytest.mark.parametrize("root", [NOT_HERE, NEWER])
@pytest.mark.parametrize(
    "nodes",
    [
        NOT_HERE,
        answer(200, {}),
        answer(200, {"namespace": "ns", "count": 0}),
        answer(200, []),
        answer(405, {"detail": "?"}),
        answer(500, {"detail": "?"}),
        no_nodes("another"),
    ],
)
async def test_a_json_404_does_not_say_that_a_v0_server_is_there(
    root: httpx.Response, nodes: httpx.Response
) -> None:
    http, _ = client_for(by_route(root, nodes))
    with pytest.raises(ManagerUnavailable):
        await discover(http, "ns")


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(404, text="default backend - 404"),
        httpx.Response(200, text="<html>"),
        answer(200, {"hello": "world"}),
        answer(400, {"detail": "?"}),
        answer(500, {"detail": "?"}),
        httpx.Response(302, headers={"location": "/login"}),
    ],
)
async def test_any_other_answer_of_the_root_decides_nothing(response: httpx.Response) -> None:
    http, _ = client_for(by_route(response, no_nodes()))
    with pytest.raises(ManagerUnavailable):
        await discover(http, "ns")
