"""A state manager inside a process, served while it lasts: for ``run --serve``."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import httpx
import pytest

from exotrio import ConfigurationError
from exotrio.errors import PortBusy
from exotrio.manager.serving import embedded_and_served
from tests.support import gated
from tests.support.helpers import ok, open_client, refused
from tests.support.processes import EXOTRIO, ended, exotrio, link_in


async def test_an_embedded_state_manager_is_served_while_the_block_lasts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("STATE_MANAGER_SECRET", "EXOSPHERE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    async with embedded_and_served(":memory:") as served:
        async with open_client(transport=served.transport) as inside:
            ok(await inside.get("/v0/namespaces"))
        async with open_client(url=served.url) as browser:
            refused(await browser.get("/v0/namespaces"), 401)
            assert (await browser.get(await served.sign_in_link())).status_code == 200
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
        welcome = await browser.get(await served.sign_in_link("/ns/a%20b/graphs/c?d=e&f"))
        assert welcome.status_code == 200
        assert 'href="/ns/a%20b/graphs/c?d=e&amp;f"' in welcome.text


async def test_a_runtime_whose_process_has_ended_is_not_shown() -> None:
    async with (
        embedded_and_served(":memory:") as served,
        open_client(url=served.url, key=served.key.text) as client,
    ):
        path = "/exotrio/v1/namespace/n"
        ok(await client.post(f"{path}/heartbeat", json={"worker_id": "w"}))
        ok(await client.post(f"{path}/worker/w/drain"))
        await served.forget("n", "w")
        refused(await client.post(f"{path}/worker/w/drain"), 404)


async def test_an_error_of_the_block_is_raised_unwrapped() -> None:
    with pytest.raises(ConfigurationError):
        async with embedded_and_served(":memory:"):
            raise ConfigurationError("mine")


@pytest.mark.parametrize("options", [(), ("--log-format", "json"), ("--db", ":memory:")])
def test_run_serve_prints_a_sign_in_link_and_serves_until_the_end(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(gated.APP, "utf-8")
    with exotrio("run", "app.py", "--serve", *options, cwd=tmp_path) as process:
        page = Path(process.line(r"dashboard, to be opened once within 10 minutes: (/\S+)")[1])
        run_id = process.line(r"run (\S+) of graph")[1]
        link = link_in(page)
        with httpx.Client(base_url=re.sub(r"/sign-in.*", "", link), trust_env=False) as browser:
            assert browser.get(link).status_code == 200
            shown = browser.get(f"/ns/{gated.NAMESPACE}/runs/{run_id}")
            assert shown.status_code == 200
            assert browser.get(link.partition("=")[0] + "=used").status_code == 200, "signed in already"
        (tmp_path / "open-w").touch()
        end = process.wait()
        assert end.code == 0
    assert not page.exists()
    assert "link=" not in end.out + end.err, "a log is read by more people than may sign in"


@pytest.mark.parametrize("form", ["text", "json"])
def test_on_a_terminal_the_link_is_shown_unless_it_shows_a_log(form: str, tmp_path: Path) -> None:
    pytest.importorskip("pty", reason="a terminal needs POSIX")
    from tests.support.terminals import Terminal

    (tmp_path / "app.py").write_text(gated.APP, "utf-8")
    command = [*EXOTRIO, "run", "app.py", "--serve", "--log-format", form]
    with Terminal(command, cwd=tmp_path) as terminal:
        terminal.until(" of graph ")
        assert ("/sign-in?link=" in terminal.screen) == (form == "text")
        assert ("sign-in.html" in terminal.screen) == (form == "json")


def test_a_state_manager_elsewhere_is_not_served(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(gated.APP, "utf-8")
    env = {"EXOSPHERE_STATE_MANAGER_URI": "http://127.0.0.1:9", "EXOSPHERE_API_KEY": "k"}
    end = ended("run", "app.py", "--serve", cwd=tmp_path, env=env)
    assert end.code == 2
    assert "--serve serves the embedded state manager" in end.err
