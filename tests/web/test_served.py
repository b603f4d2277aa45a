"""A state manager inside a process, served while it lasts: for ``run --serve``."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import httpx
import pytest

from exotrio import ConfigurationError
from exotrio._errors import PortBusy
from exotrio.manager._served import embedded_and_served
from tests import gated
from tests.helpers import ok, open_client, refused
from tests.processes import ended, exotrio


async def test_what_is_embedded_can_be_looked_at_while_the_block_lasts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("STATE_MANAGER_SECRET", "EXOSPHERE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    async with embedded_and_served(":memory:") as served:
        async with open_client(transport=served.transport) as inside:
            ok(await inside.get("/v0/namespaces"))
        async with open_client(url=served.url) as browser:
            refused(await browser.get("/v0/namespaces"), 401)
            assert (await browser.get(served.sign_in_link())).status_code == 200
            assert (await browser.get("/ns/default")).status_code == 200
    async with open_client(url=served.url) as browser:
        with pytest.raises(httpx.ConnectError):
            await browser.get("/")


async def test_the_first_port_that_is_free_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with embedded_and_served(":memory:", ports=(port, 0)) as served:
            assert not served.url.endswith(f":{port}")
        with pytest.raises(PortBusy):
            async with embedded_and_served(":memory:", ports=(port,)):
                pass


async def test_a_sign_in_link_can_lead_to_any_page() -> None:
    async with embedded_and_served(":memory:") as served, open_client(url=served.url) as browser:
        welcome = await browser.get(served.sign_in_link("/ns/a%20b/graphs/c?d=e&f"))
        assert welcome.status_code == 200
        assert 'href="/ns/a%20b/graphs/c?d=e&amp;f"' in welcome.text


async def test_a_worker_whose_process_has_ended_is_shown_no_more() -> None:
    async with (
        embedded_and_served(":memory:") as served,
        open_client(url=served.url, key=served.key.text) as client,
    ):
        path = "/exotrio/v1/namespace/n"
        ok(await client.post(f"{path}/heartbeat", json={"worker_id": "w"}))
        ok(await client.post(f"{path}/worker/w/drain"))
        await served.forget("n", "w")
        refused(await client.post(f"{path}/worker/w/drain"), 404)


async def test_an_error_of_the_block_comes_out_bare() -> None:
    with pytest.raises(ConfigurationError):
        async with embedded_and_served(":memory:"):
            raise ConfigurationError("mine")


def test_a_run_is_served_as_long_as_it_lasts_and_says_how_to_sign_in(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(gated.APP, "utf-8")
    with exotrio("run", "app.py", "--serve", cwd=tmp_path) as process:
        link = process.line(r"dashboard.*(http://127\.0\.0\.1:\d+/sign-in\?link=\S+)")[1]
        run_id = process.line(r"run (\S+) of graph")[1]
        with httpx.Client(base_url=re.sub(r"/sign-in.*", "", link), trust_env=False) as browser:
            assert browser.get(link).status_code == 200
            page = browser.get(f"/ns/{gated.NAMESPACE}/runs/{run_id}")
            assert page.status_code == 200
            assert browser.get(link.partition("=")[0] + "=used").status_code == 200, "signed in already"
        (tmp_path / "open-w").touch()
        assert process.wait().code == 0


def test_a_state_manager_elsewhere_is_not_served(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(gated.APP, "utf-8")
    env = {"EXOSPHERE_STATE_MANAGER_URI": "http://127.0.0.1:9", "EXOSPHERE_API_KEY": "k"}
    end = ended("run", "app.py", "--serve", cwd=tmp_path, env=env)
    assert end.code == 2
    assert "--serve serves the embedded state manager" in end.err
