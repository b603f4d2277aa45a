"""What the forms of the dashboard do."""

from __future__ import annotations

import re
from urllib.parse import quote
from uuid import uuid4

import pytest

from tests.contract.flow import Flow
from tests.support.helpers import NO_RETRY, UNKNOWN_ID, UNKNOWN_RUN, node_name, ok, place, refused
from tests.support.web import SCRIPT, Browser, failed_run, open_site, text_of


def runs_in(html: str) -> list[str]:
    return re.findall(r'name="run" value="([^"]+)"', html)


async def test_a_failed_state_is_retried_and_its_new_attempt_shown() -> None:
    async with open_site() as site:
        flow, state = await failed_run(site.api)
        html = await site.browser.do(f"/ns/shop/states/{state}/retry")
        assert "This is its new attempt" in html
        assert "waiting" in html
        assert await flow.status(state) == "RETRY_CREATED"
        assert "This is its new attempt" not in await site.browser.page("/ns/shop"), "said once"


async def test_all_failed_states_of_a_run_are_retried() -> None:
    async with open_site() as site:
        flow, state = await failed_run(site.api)
        assert "1 failed state will run again." in await site.browser.do(f"/ns/shop/runs/{flow.run_id}/retry")
        assert await flow.status(state) == "RETRY_CREATED"
        again = await site.browser.post(f"/ns/shop/runs/{flow.run_id}/retry")
        assert again.status_code == 409
        assert "has no failed states" in again.text


async def test_a_graph_is_deleted_with_its_runs() -> None:
    async with open_site() as site:
        flow = await Flow.start(site.api, place("a"))
        path = f"/ns/shop/graphs/{flow.graph}/delete"
        assert f'action="{path}"' in await site.browser.page(f"/ns/shop/graphs/{flow.graph}")
        assert "has runs that have not ended" in (await site.browser.post(path)).text
        html = await site.browser.do(path, {"cancel_runs": "on"})
        assert f"Graph {flow.graph} was deleted with 1 run." in html
        refused(await site.api.get_graph(flow.graph), 404)


async def test_a_run_is_cancelled() -> None:
    async with open_site() as site:
        flow = await Flow.start(site.api, place("work"))
        html = await site.browser.do(f"/ns/shop/runs/{flow.run_id}/cancel")
        assert "The run was cancelled." in html
        assert "cancelled</span>" in html
        await flow.none_ready("work")


async def test_ticked_runs_are_changed_as_far_as_each_can_be() -> None:
    async with open_site() as site:
        failed, _ = await failed_run(site.api)
        flow = await Flow.deploy(site.api, place("work"))
        waiting = [await flow.trigger() for _ in range(2)]
        chosen = {"run": [failed.run_id, *waiting], "do": "cancel", "graph": "", "status": "running"}
        html = text_of(await site.browser.do("/ns/shop/runs/change", chosen))
        assert "2 runs cancelled. 1 could not be: the run" in html
        assert "<option selected>running</option>" in html, "the filters stay"
        said = await site.browser.do("/ns/shop/runs/change", {"run": [failed.run_id], "do": "retry"})
        assert "1 run retried." in said
        assert "No run was ticked" in await site.browser.do("/ns/shop/runs/change", {"do": "retry"})
        assert (await site.browser.post("/ns/shop/runs/change", {"do": "delete"})).status_code == 400


async def test_a_run_is_started_from_the_form_of_its_graph() -> None:
    async with open_site() as site:
        flow = await Flow.deploy(
            site.api,
            place("root", inputs={"a": "from the graph", "b": "${{ store.key }}"}),
            store_config={"required_keys": ["must"], "default_values": {"key": "default"}},
            retry_policy=NO_RETRY,
        )
        form = text_of(await site.browser.page("/ns/shop/graphs/graph"))
        for name in ("input.a", "input.b", "store.must", "store.key", "request_id"):
            assert f'name="{name}"' in form
        given = {"request_id": str(uuid4()), "input.a": SCRIPT, "store.must": "1", "store.key": "x\r\ny"}
        html = await site.browser.do("/ns/shop/graphs/graph/trigger", given)
        assert "The run was started." in html
        assert SCRIPT not in html
        await site.browser.do("/ns/shop/graphs/graph/trigger", given)
        assert len(runs_in(await site.browser.page("/ns/shop/runs"))) == 1, "sent twice, it starts once"
        (state,) = await flow.take("root")
        assert state["inputs"] == {"a": SCRIPT, "b": "x\ny"}


async def test_a_run_is_started_once_for_each_key_that_a_form_has() -> None:
    async with open_site() as site:
        flow = await Flow.deploy(site.api, place("root", inputs={"a": ""}))
        given = {"key": " order <17> ", "input.a": "x"}
        for said in ("The run was started.", "The run with the key order <17> existed already."):
            # From the form loaded anew, so with another id.
            given["request_id"] = str(uuid4())
            html = text_of(await site.browser.do("/ns/shop/graphs/graph/trigger", given))
            assert said in html
            assert 'key <code class="wrap">order <17></code>' in html, "the page of the run has it, too"
        changed = await site.browser.post("/ns/shop/graphs/graph/trigger", {**given, "input.a": "y"})
        assert (changed.status_code, "with other inputs or another store" in changed.text) == (409, True)
        unfit = await site.browser.post("/ns/shop/graphs/graph/trigger", {"key": "a\tb"})
        assert (unfit.status_code, "control character" in unfit.text) == (400, True)
        await flow.trigger()
        for text, count in (("ORDER <17", 1), ("order 18", 0), ("", 2)):
            found = await site.browser.page(f"/ns/shop/runs?text={quote(text)}")
            assert len(runs_in(found)) == count, text


async def test_a_node_is_paused_and_whatever_waits_for_it_says_so_until_it_is_resumed() -> None:
    async with open_site() as site:
        flow = await Flow.start(site.api, place("work"))
        node = node_name("work")
        (state,) = await flow.states("work")
        waiting = {
            f"/ns/shop/runs/{flow.run_id}": (f"{node}</a> is paused since 20", "its node is paused"),
            f"/ns/shop/states/{state['id']}": (f"waits: node {node} is paused since 20",),
            f"/ns/shop/nodes/{node}": ("nothing of it is claimed", f"/ns/shop/nodes/{node}/resume"),
            "/ns/shop/nodes": ("paused</span>",),
            "/ns/shop": (f'paused: <a href="/ns/shop/nodes/{node}">', "(1 waits)"),
        }
        html = await site.browser.do(f"/ns/shop/nodes/{node}/pause")
        assert "The node is paused: nothing more of it is claimed." in html
        for path, parts in waiting.items():
            page = await site.browser.page(path)
            for part in parts:
                assert part in page, (path, part)
        await flow.none_ready("work")
        html = await site.browser.do(f"/ns/shop/nodes/{node}/resume")
        assert "The node is claimed again." in html
        for path, parts in waiting.items():
            page = await site.browser.page(path)
            assert not [part for part in parts if part in page], path
        await flow.one("work")
        assert (await site.browser.post("/ns/shop/nodes/none/pause")).status_code == 404


async def test_the_schedule_of_a_graph_is_paused_and_resumed() -> None:
    async with open_site() as site:
        cron = [{"type": "CRON", "value": {"expression": "0 3 * * *"}}]
        await Flow.deploy(site.api, place("work"), triggers=cron)
        page = "/ns/shop/graphs/graph"
        assert f"{page}/pause" in await site.browser.page(page)
        assert "The schedule is paused: it starts no runs." in (
            html := await site.browser.do(f"{page}/pause")
        )
        assert f"{page}/resume" in html
        assert "next, in UTC" not in html
        assert "paused</span>" in await site.browser.page("/ns/shop/graphs")
        html = await site.browser.do(f"{page}/resume")
        assert "from its next time on." in html
        assert "next, in UTC" in html
        await Flow.deploy(site.api, place("work"), graph="unscheduled")
        assert "/pause" not in await site.browser.page("/ns/shop/graphs/unscheduled")


async def test_an_empty_text_can_be_given_and_what_is_left_empty_stays() -> None:
    async with open_site() as site:
        flow = await Flow.deploy(site.api, place("root", inputs={"a": "kept", "b": "replaced"}))
        fields = {"input.a": "", "input.b": "", "empty.input.b": "on"}
        await site.browser.do("/ns/shop/graphs/graph/trigger", fields)
        (state,) = await flow.take("root")
        assert state["inputs"] == {"a": "kept", "b": ""}


async def test_what_the_form_lacks_is_said() -> None:
    async with open_site() as site:
        await Flow.deploy(site.api, place("root"), store_config={"required_keys": ["must"]})
        answer = await site.browser.post("/ns/shop/graphs/graph/trigger")
        assert answer.status_code == 400
        assert "The store lacks required keys: must." in answer.text
        for delay in ("soon", "-1", "nan", "1e99"):
            answer = await site.browser.post("/ns/shop/graphs/graph/trigger", {"delay": delay})
            assert answer.status_code == 400
            assert "The delay is" in answer.text
        assert (await site.browser.post("/ns/shop/graphs/absent/trigger")).status_code == 404


async def test_a_run_is_started_again_with_the_same_inputs_and_store() -> None:
    async with open_site() as site:
        flow = await Flow.deploy(
            site.api,
            place("root", inputs={"a": "x", "b": "${{ store.key }}"}),
            store_config={"default_values": {"key": "default"}},
        )
        await flow.trigger(inputs={"a": SCRIPT}, store={"key": "given"})
        (first,) = await flow.take("root")
        html = await site.browser.do(f"/ns/shop/runs/{flow.run_id}/again")
        assert "A new run with the same inputs and store was started." in html
        (second,) = await flow.take("root")
        assert second["inputs"] == first["inputs"] == {"a": SCRIPT, "b": "given"}


async def test_a_runtime_is_asked_to_drain_with_its_next_heartbeat() -> None:
    async with open_site() as site:
        beat = {"worker_id": "a/b", "runtime": "R", "phase": "running"}
        ok(await site.api.native("POST", "heartbeat", json=beat))
        assert "asked to drain" in await site.browser.do("/ns/shop/runtimes/drain", {"worker": "a/b"})
        assert "asked to drain" in await site.browser.page("/ns/shop/runtimes")
        assert ok(await site.api.native("POST", "heartbeat", json=beat))["commands"] == ["drain"]
        assert (await site.browser.post("/ns/shop/runtimes/drain", {"worker": "x"})).status_code == 404


@pytest.mark.parametrize(
    "path",
    [f"/ns/shop/states/{UNKNOWN_ID}/retry", f"/ns/shop/runs/{UNKNOWN_RUN}/cancel", "/ns/shop/runs/x/again"],
)
async def test_what_is_not_there_cannot_be_changed(path: str) -> None:
    async with open_site() as site:
        await failed_run(site.api)
        assert (await site.browser.post(path)).status_code == 404


async def test_what_is_no_form_or_too_large_is_refused() -> None:
    async with open_site() as site:
        path = "/ns/shop/runs/change"

        async def send(browser: Browser, content: bytes, kind: str) -> int:
            headers = {"origin": "http://localhost:8000", "content-type": kind}
            return (await browser.client.post(path, content=content, headers=headers)).status_code

        form = "application/x-www-form-urlencoded"
        assert await send(site.browser, b"{}", "application/json") == 415
        assert await send(site.browser, b"a=%FF", form) == 400
        assert await send(site.browser, b"\xff", form) == 400
        assert await send(site.browser, b"a=1&" * 3_000, form) == 400
        assert await send(site.browser, b"a" * (1024 * 1024 + 1), form) == 413


async def test_the_task_tree_of_a_runtime_is_asked_for_and_shown() -> None:
    async with open_site() as site:
        beat = {"worker_id": "w", "runtime": "R", "phase": "running"}
        ok(await site.api.native("POST", "heartbeat", json=beat))
        refused = await site.browser.post("/ns/shop/runtimes/tasks", {"worker": "w"})
        assert refused.status_code == 409
        assert "--health-tasks" in refused.text
        beat["shows_tasks"] = True  # type: ignore[assignment]
        ok(await site.api.native("POST", "heartbeat", json=beat))
        assert "Requested" in await site.browser.do("/ns/shop/runtimes/tasks", {"worker": "w"})
        assert ok(await site.api.native("POST", "heartbeat", json=beat))["commands"] == ["tasks"]
        ok(await site.api.native("POST", "heartbeat", json={**beat, "tasks": f"main\n  {SCRIPT}"}))
        html = await site.browser.page("/ns/shop/runtimes")
        assert f"main\n  {SCRIPT}" in text_of(html)
        assert "<script>alert" not in html
        assert (await site.browser.post("/ns/shop/runtimes/tasks", {"worker": "x"})).status_code == 404
