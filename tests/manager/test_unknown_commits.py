"""A commit whose answer was lost is not refused: clients take a refusal for proof that nothing happened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Literal
from uuid import uuid4

import httpx
import pytest

from exotrio._http.response import NotAccepted, parse_response
from exotrio.errors import ManagerUnavailable
from exotrio.manager import service
from exotrio.manager.engine import claims, managers, outcomes, triggers
from exotrio.manager.security import encryption
from exotrio.manager.store.transaction import Transaction
from tests.contract.flow import Flow
from tests.support.helpers import node_name, ok, place
from tests.support.manager import Manager, open_manager, recount
from tests.support.postgres import Database
from tests.support.postgres_proxy import PostgresProxy

A = node_name("a")
When = Literal["before", "after"]
WHEN: tuple[When, ...] = ("before", "after")


@pytest.fixture
async def manager(database: Database, proxy: PostgresProxy) -> AsyncIterator[Manager]:
    async with open_manager(database.url_at(proxy.port)) as manager:
        yield manager


Cut = Callable[[Any, str, When], None]


@pytest.fixture
def cut(proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch) -> Cut:
    """Return what cuts the next commit of a use case, given by its module and name."""

    def prepare(module: Any, name: str, when: When) -> None:
        use_case = getattr(module, name)

        def wrapper(tx: Transaction, *args: Any, **options: Any) -> Any:
            result = use_case(tx, *args, **options)
            if getattr(module, name) is wrapper:
                monkeypatch.setattr(module, name, use_case)
                # Its own connection: what the state manager does by itself commits, too.
                connection: Any = tx._connection
                proxy.cut_at_commit(when, connection._socket.getsockname()[1])
            return result

        monkeypatch.setattr(module, name, wrapper)

    return prepare


async def test_what_may_have_happened_differs_from_what_was_refused(manager: Manager, cut: Cut) -> None:
    def check_unknown(answer: httpx.Response) -> None:
        with pytest.raises(ManagerUnavailable, match="not known") as caught:
            parse_response(
                answer.status_code, answer.headers, answer.content, at="it", request_line="something"
            )
        assert not isinstance(caught.value, NotAccepted)
        assert caught.value.sent

    flow = await Flow.deploy(manager.api, place("a"))
    # None of these may be repeated on the assumption that nothing happened: a run without an id, a claim
    # without one, an outcome without a token.
    cut(triggers, "trigger", "after")
    check_unknown(await manager.api.trigger(flow.graph))
    cut(claims, "claim", "after")
    check_unknown(await manager.api.claim([A], 1))
    await flow.trigger()
    (claimed,) = ok(await manager.api.claim([A], 1))["states"]
    cut(outcomes, "record_v0", "after")
    check_unknown(await manager.api.executed(claimed["state_id"], {"v": "1"}))
    await manager.service.store.read(recount)


@pytest.mark.parametrize("when", WHEN)
async def test_states_of_a_claim_without_an_id_whose_commit_is_unknown_can_be_claimed(
    manager: Manager, cut: Cut, when: When
) -> None:
    flow = await Flow.deploy(manager.api, place("a"))
    await flow.trigger()
    cut(claims, "claim", when)
    assert (await manager.api.claim([A], 1)).status_code == 504
    (_,) = ok(await manager.api.native_claim({A: 1}, wait_ms=15_000))["states"]
    await manager.service.store.read(recount)


async def test_a_state_manager_starts_though_each_first_commit_of_its_start_is_cut(
    database: Database, proxy: PostgresProxy, cut: Cut
) -> None:
    cut(managers, "enter_if_fit", "after")
    cut(service, "recover", "before")
    cut(encryption, "encrypt_again", "after")
    async with open_manager(database.url_at(proxy.port)) as manager:
        await Flow.deploy(manager.api, place("a"))


async def test_a_request_with_an_id_that_may_have_happened_does_not_happen_twice(
    manager: Manager, cut: Cut
) -> None:
    flow = await Flow.deploy(manager.api, place("a"))
    run_id = str(uuid4())
    for when in WHEN:
        cut(triggers, "trigger", when)
        assert (await manager.api.native_trigger(flow.graph, run_id)).status_code == 504
    ok(await manager.api.native_trigger(flow.graph, run_id))
    cut(claims, "claim", "after")
    assert (await manager.api.native_claim({A: 5}, claim_id="c")).status_code == 504
    (claimed,) = ok(await manager.api.native_claim({A: 5}, claim_id="c"))["states"]
    assert claimed["run_id"] == run_id
    await manager.service.store.read(recount)


async def test_a_run_with_a_key_is_started_once_whether_the_answer_was_lost_or_the_commit(
    manager: Manager, cut: Cut
) -> None:
    flow = await Flow.deploy(manager.api, place("a"))
    created = []
    for when in WHEN:
        path, body = f"graph/{flow.graph}/trigger", {"key": when}
        cut(triggers, "trigger", when)
        assert (await manager.api.v0("POST", path, json=body)).status_code == 504
        created.append(ok(await manager.api.v0("POST", path, json=body))["created"])
    assert created == [True, False]
    assert ok(await manager.api.runs())["total"] == 2
    await manager.service.store.read(recount)
