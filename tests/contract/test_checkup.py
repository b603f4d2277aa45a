"""What a checkup of a state manager shows: its clock, its database, and the claims and their leases."""

from __future__ import annotations

import time

import pytest

from exotrio._version import VERSION
from exotrio._wire.checkup import Checkup
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import claim_one
from tests.contract.target import Target
from tests.support.helpers import node_name, ok, place

pytestmark = pytest.mark.deviates_from_stock("a stock server has no native API")


async def checkup(api: Api) -> Checkup:
    return Checkup.model_validate(ok(await api.checkup()))


async def test_a_checkup_shows_clock_version_and_terms(api: Api) -> None:
    before = time.time_ns() // 1_000_000
    shown = await checkup(api)
    assert before <= shown.at.timestamp() * 1000 <= time.time_ns() // 1_000_000 + 1
    assert shown.version == VERSION
    assert (shown.lease_ttl, shown.claim_timeout) == (30, None)
    assert shown.claims == []
    assert (shown.leases.lost, shown.leases.poison) == (0, 0)


async def test_claims_through_v0_are_counted_apart_from_those_with_a_lease(api: Api, target: Target) -> None:
    flow = await Flow.start(api, place("a"), runs=2)
    await flow.trigger()
    await claim_one(api, limit=1)
    await flow.take("a", 2)
    (claims,) = (await checkup(api)).claims
    assert claims.node == node_name("a")
    if target.kind == "embedded":  # there a holder ends with the state manager
        assert (claims.local, claims.leased, claims.leaseless) == (3, 0, 0)
    else:
        assert (claims.local, claims.leased, claims.leaseless) == (0, 1, 2)
        assert claims.oldest_leaseless >= 0
    assert (claims.timed, claims.overdue) == (0, 0)
    assert (await checkup(api.elsewhere())).claims == []


async def test_a_checkup_names_live_runtimes_that_disagree_about_a_node(api: Api) -> None:
    shared = {"Same": "(a) -> (b)"}
    ok(await api.heartbeat("w1", runtime="r", nodes={**shared, "Mixed": "(a) -> (b)"}))
    ok(await api.heartbeat("w2", runtime="r", nodes={**shared, "Mixed": "(a, mode=) -> (b)"}))
    ok(await api.heartbeat("w3", runtime="r", phase="stopped", nodes={"Same": "() -> ()"}))
    (disagreement,) = (await checkup(api)).disagreements
    assert disagreement.node == "Mixed"
    assert {version.fields: version.runtimes for version in disagreement.versions} == {
        "(a) -> (b)": ["r (w1)"],
        "(a, mode=) -> (b)": ["r (w2)"],
    }
    assert (await checkup(api.elsewhere())).disagreements == []


async def test_a_checkup_shows_the_size_and_the_commits_of_the_database(api: Api, target: Target) -> None:
    flow = await Flow.deploy(api, place("a"))
    for _ in range(20):  # each of two state managers counts its own commits
        await flow.trigger()
    shown = (await checkup(api)).database
    assert shown is not None
    assert shown.commit_time is not None
    assert 0 <= shown.commit_time < 60
    assert shown.size > 0
    assert shown.schema_version >= 1
    assert shown.in_memory is (target.kind == "embedded")
    is_file = target.kind != "embedded" and not target.is_on_postgres
    assert (shown.free_disk is not None, shown.log_size > 0) == (is_file, is_file)
    assert (shown.postgres is not None) is target.is_on_postgres
