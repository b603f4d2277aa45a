"""The page for operators of a state manager."""

from __future__ import annotations

import platform

import pytest

from tests.contract.flow import Flow
from tests.support.helpers import NO_RETRY, ok, place
from tests.support.manager import ENGINES
from tests.support.web import open_site, text_of


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_system_page_shows_managers_database_and_what_doctor_finds(engine: str, db: str) -> None:
    async with open_site(db, keep_ms=30 * 86_400_000) as site:
        path = "/ns/shop/system"
        healthy = text_of(await site.browser.page(path))
        assert "Nothing." in healthy
        for shown in (f"<dd>{engine} ", site.service.manager, platform.node(), site.service.cipher.newest):
            assert shown in healthy
        assert "are deleted after 30 d" in healthy
        assert ("Free on its disk" in healthy) == (engine == "SQLite")
        assert ("Dead rows of states" in healthy) == (engine == "PostgreSQL")
        assert site.service.database in healthy
        if engine == "SQLite":
            assert "none yet by" in healthy
            assert (await site.api.client.get("/exotrio/v1/backup")).status_code == 200
        flow = await Flow.start(site.api, place("work"), retry_policy=NO_RETRY)
        waiting = await site.browser.fragments(path, "system")
        assert "no live runtime has Node_work" in waiting
        assert '<a href="/ns/shop/nodes/Node_work">Node_work</a>' in waiting
        assert "none yet by" not in waiting
        (state,) = await flow.take("work")
        ok(await site.api.errored(state["state_id"]))
        html = await site.browser.fragments(path, "system")
        assert "1 state failed for good within 24 h" in html
        assert '<a href="/ns/shop/runs?status=errored">runs with errored states</a>' in html
        assert "<code>runs " not in html, "a link replaces the commands"
