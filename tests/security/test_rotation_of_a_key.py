"""A runtime whose key is replaced while it works: it reports what it claimed with the old key."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from pydantic import BaseModel

from exotrio import BaseNode, Graph, Runtime, StateManager
from exotrio.client import RunStatus
from exotrio.manager import serve

ROOT = "root-key-of-the-rotation-test"
begun, may_end = trio.Event(), trio.Event()
executions: list[str] = []


class Work(BaseNode):
    class Outputs(BaseModel):
        text: str

    async def execute(self) -> Outputs:
        executions.append(self.run_id)
        begun.set()
        await may_end.wait()
        return self.Outputs(text="done")


async def test_a_new_key_in_the_file_needs_no_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def write(key: str) -> None:
        Path("worker.key").write_text(f"{key}\n", "utf-8")

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(lambda **options: serve(port=0, db="state.db", key=ROOT, **options))
            async with StateManager(namespace="shop", state_manager_uri=url, key=ROOT) as manager:
                old = await manager.add_key("worker", ["runtime:shop"])
                assert old.text not in repr(old)
                write(old.text)
                monkeypatch.setenv("EXOSPHERE_STATE_MANAGER_URI", url)
                monkeypatch.setenv("EXOSPHERE_API_KEY_FILE", "worker.key")
                runtime = Runtime(namespace="shop", name="r", nodes=[Work], poll_interval=0.05)
                await nursery.start(runtime.run)
                graph = Graph("g", namespace="shop")
                graph.add(Work)
                await manager.upsert_graph(graph)
                run_id = (await manager.trigger("g"))["run_id"]
                await begun.wait()
                new = await manager.add_key("worker", ["runtime:shop"])
                write(new.text)
                await manager.revoke_key(old.id)
                may_end.set()
                run = await manager.wait(run_id, timeout=30)
                assert run.status is RunStatus.SUCCESS
                # Nothing was repeated because of it, and the next run is claimed with the new key.
                assert executions == [run_id]
                again = (await manager.trigger("g"))["run_id"]
                assert (await manager.wait(again, timeout=30)).status is RunStatus.SUCCESS
                runtime.stop()
                (shown,) = [key for key in (await manager.keys()).keys if key.is_valid]
                assert shown.id == new.id
            nursery.cancel_scope.cancel()
