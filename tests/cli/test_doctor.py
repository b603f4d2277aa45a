"""``doctor``: settings and where they came from, whether the state manager can be reached, and what it is."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from exotrio._http.client import HttpClient
from exotrio.cli.doctor.settings import examine_settings
from exotrio.manager.rules.findings import python_findings
from tests.support import stock as stocks
from tests.support.commands import NODES, Cli, with_worker
from tests.support.helpers import declare
from tests.support.processes import KEY, Ended, Server, ended, server
from tests.support.stock import Answer, Stock, on_a_port


class Doctored(Stock):
    """A stock server that gives some other answers, by their paths."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        super().__init__(time.monotonic)
        self._own = answers

    def ask(self, method: str, path: str, key: str | None, content: bytes) -> Answer:
        return self._own[path] if path in self._own else super().ask(method, path, key, content)


@contextmanager
def doctored(answers: Mapping[str, Answer] | None = None) -> Iterator[tuple[Doctored, str]]:
    stock = Doctored(answers or {})
    with on_a_port(stock) as uri:
        yield stock, uri


SECRETS = ("STATE_MANAGER_SECRET", "SECRETS_ENCRYPTION_KEY", "CORS_ORIGINS")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with with_worker(tmp_path_factory.mktemp("native")) as running:
        yield running


@pytest.fixture
def cli(bare: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Commands with nothing set at all."""
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
    return bare


def says(end: Ended, code: int, *parts: str) -> None:
    """Check the exit code, that the report contains each part, and that nothing else is printed."""
    assert end.code == code, end
    assert end.err == "", end
    for part in parts:
        assert part in end.out, f"no {part!r} in {end}"


def nothing_in(namespace: str) -> tuple[str, ...]:
    """Return the last line of a report without problems, up to its number of notes."""
    examined = f"\nexamined the settings, the state manager and namespace {namespace}"
    return (f"{examined}: nothing urgent, ",)


def source(report: dict[str, Any], name: str) -> tuple[str | None, str]:
    (setting,) = [each for each in report["settings"] if each["name"] == name]
    return setting["value"], setting["source"]


# -- settings


def test_missing_settings_are_named_with_how_to_set_them(cli: Cli) -> None:
    end = cli("doctor")
    says(end, 2, "! no state manager is given, and there is no database .exotrio/state.db in this folder")
    says(end, 2, "\nexamined only the settings: 1 thing needs attention, ")
    says(end, 2, "EXOSPHERE_NAMESPACE", "sqlite", "trio ", f"{cli.folder / '.env'}")
    assert "state manager http" not in end.out


def test_the_key_next_to_a_local_database_is_pointed_out(cli: Cli) -> None:
    (cli.folder / ".exotrio").mkdir()
    (cli.folder / ".exotrio/state.db.api-key").write_text("k")
    says(cli("doctor", "--uri", "http://127.0.0.1:1"), 2, "--key-file .exotrio/state.db.api-key")


def test_a_remote_database_without_tls_is_pointed_out(cli: Cli) -> None:
    for mode, is_named in (("", True), ("?sslmode=disable", True), ("?sslmode=verify-full", False)):
        cli.set(EXOTRIO_DATABASE_URL=f"postgresql://ada:p5-secret@db/name{mode}")
        end = cli("doctor", "--uri", "http://127.0.0.1:1", code=2)
        assert ("sessions with postgresql://ada@db/name" in end.out) is is_named
        assert ("sslmode=verify-full&sslrootcert=FILE" in end.out) is is_named
        assert "p5-secret" not in end.out + end.err


def test_each_setting_is_shown_with_its_source_and_without_secrets(cli: Cli) -> None:
    cli.write(
        ".env",
        "EXOSPHERE_API_KEY=key-in-the-file\nEXOSPHERE_NAMESPACE=filed\n"
        "EXOSPHERE_STATE_MANAGER_URI=http://me:pass-in-the-uri@127.0.0.1:1\nSECRETS_ENCRYPTION_KEY=enc-key-1\n",
    )
    cli.set(EXOSPHERE_NAMESPACE="named", STATE_MANAGER_SECRET="server-key-77")
    for arguments in ((), ("-o", "json")):
        end = cli("doctor", *arguments, code=4)
        for secret in ("key-in-the-file", "pass-in-the-uri", "enc-key-1", "server-key-77"):
            assert secret not in end.out + end.err
    report = json.loads(end.out)
    filed = f".env in {cli.folder}"
    assert source(report, "EXOSPHERE_API_KEY") == ("set, 15 characters", filed)
    assert source(report, "EXOSPHERE_STATE_MANAGER_URI") == ("http://127.0.0.1:1", filed)
    assert source(report, "EXOSPHERE_NAMESPACE") == ("named", "environment")
    assert source(report, "STATE_MANAGER_SECRET") == ("set, 13 characters", "environment")
    assert source(report, "CORS_ORIGINS")[0] is None
    infos = [f["what"] for f in report["findings"] if not f["attention"]]
    assert [what for what in infos if "CVE" not in what] == [
        "EXOSPHERE_NAMESPACE is in .env too, with another value: the one in the environment is used"
    ]
    assert len(infos) - 1 == len(python_findings(sys.version_info[:3]))
    cli.write("key", "key-of-the-option")
    report = json.loads(
        cli("doctor", "-o", "json", "-n", "x", "--uri", "http://127.0.0.1:2", "--key-file", "key").out
    )
    assert source(report, "EXOSPHERE_API_KEY") == ("set, 17 characters", "option --key-file key")
    assert source(report, "EXOSPHERE_STATE_MANAGER_URI") == ("http://127.0.0.1:2", "option --uri")
    assert source(report, "EXOSPHERE_NAMESPACE") == ("x", "option --namespace")


def test_mistakes_in_dot_env_are_shown_with_their_lines(cli: Cli) -> None:
    cli.write(".env", "EXOSPHERE_NAMESPACE=n\nthis is = no setting\nEXOSPHERE_API_KY=k\nOTHER=1\n")
    says(
        cli("doctor"),
        2,
        "! .env, line 2, is not a setting and was skipped",
        "- EXOSPHERE_API_KY is set and not used; did you mean 'EXOSPHERE_API_KEY'?",
    )


def test_an_unreadable_dot_env_is_a_finding(cli: Cli) -> None:
    (cli.folder / ".env").write_bytes(b"EXOSPHERE_NAMESPACE=\xff\xfe\n")
    cli.set(EXOSPHERE_STATE_MANAGER_URI="http://127.0.0.1:8000", EXOSPHERE_API_KEY="k")
    says(cli("doctor"), 2, "! the file .env cannot be read: ", "cannot be read\n", "127.0.0.1:8000")
    (cli.folder / ".env").unlink()
    (cli.folder / ".env").mkdir()
    says(cli("doctor"), 4, "is a folder, not read")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--uri", "ftp://x", "--key-file", "key"), "must start with http:// or https://"),
        (("--key-file", "absent"), "the key file absent cannot be read"),
        (("--key-file", "empty"), "the key file empty is empty"),
        (("-n", "a/b"), "the namespace"),
    ],
)
def test_an_option_that_cannot_be_used_is_a_finding(cli: Cli, options: tuple[str, ...], message: str) -> None:
    cli.write("key", "k")
    cli.write("empty", "")
    says(cli("doctor", *options), 2, message)


@pytest.mark.parametrize("used", ["a-key-in-a-file", "a-key-in-the-environment", "a-key-of-an-option"])
def test_printed_settings_do_not_contain_the_key(bare: Cli, used: str) -> None:
    bare.write(".env", "EXOSPHERE_STATE_MANAGER_URI=http://127.0.0.1:1\nEXOSPHERE_API_KEY=a-key-in-a-file\n")
    bare.set(STATE_MANAGER_SECRET="a-key-of-a-server")
    if used == "a-key-in-the-environment":
        bare.set(EXOSPHERE_API_KEY=used)
    key_file = Path(bare.write("key", used)) if used == "a-key-of-an-option" else None
    settings = examine_settings(None, None, key_file)
    assert settings.endpoint is not None
    assert settings.endpoint.key == used
    assert "a-key" not in repr(settings)


# -- what the URI leads to


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Serve the same bytes to each client, for as long as the block lasts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stopping = threading.Event()

        def serve() -> None:
            while not stopping.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    if not stopping.is_set():
                        connection.recv(65_536)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stopping.set()
            socket.create_connection(listener.getsockname()).close()
            thread.join()


def at(cli: Cli, uri: str, key: str = KEY) -> Cli:
    cli.set(EXOSPHERE_STATE_MANAGER_URI=uri, EXOSPHERE_API_KEY=key, EXOSPHERE_NAMESPACE="n")
    return cli


def test_a_server_that_cannot_be_reached_is_a_finding(cli: Cli) -> None:
    says(
        at(cli, "http://127.0.0.1:1")("doctor"),
        4,
        "! the state manager at http://127.0.0.1:1 cannot be reached",
    )
    says(cli("doctor"), 4, "exotrio server", "it is not known to be one: see below")


def test_a_server_without_http_or_tls_is_a_finding(cli: Cli) -> None:
    with answering(b"something else\r\n\r\n") as address:
        says(at(cli, f"http://{address}")("doctor"), 4, f"the state manager at http://{address}")
        says(
            at(cli, f"https://{address}")("doctor"), 4, f"! the state manager at https://{address} cannot be"
        )


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/exotrio/v1", Answer(200, b"<html>hello</html>")),
        ("/exotrio/v1", Answer(404, b"<html>gone</html>")),
        ("/exotrio/v1", Answer(302, b"", location="https://x")),
        ("/v0/namespace/n/nodes/", Answer(404, {"detail": "Not Found"})),
        ("/v0/namespace/n/nodes/", Answer(200, {"nodes": "many"})),
    ],
)
def test_a_server_that_is_not_a_state_manager_is_a_finding(cli: Cli, path: str, answer: Answer) -> None:
    with doctored({path: answer}) as (_, uri):
        end = at(cli, uri, stocks.KEY)("doctor")
        says(end, 4, f"state manager {uri}\n  it is not known to be one", "\n! ", str(answer.status))


def test_a_refused_key_has_its_own_exit_code(cli: Cli, running: Server) -> None:
    end = at(cli, running.uri, "another-key")("doctor")
    says(end, 5, "answered 401", "--key-file FILE")
    with doctored() as (_, uri):
        says(at(cli, uri, "another-key")("doctor"), 5, "answered 401", "--key-file FILE")


def test_without_a_key_nothing_is_sent(cli: Cli, running: Server) -> None:
    end = cli("doctor", "--uri", running.uri)
    says(end, 2, "no API key: give --key-file", "\nexamined only the settings: ")


# -- our state manager


def test_without_problems_it_exits_0(cli: Cli, running: Server) -> None:
    end = at(cli, running.uri)("doctor")
    says(
        end,
        0,
        "kind: exotrio, native 0.",
        "clock: that of this machine, give or take",
        "schema ",
        "free on its disk",
    )
    says(end, 0, "1 live runtime; 3 nodes", *nothing_in("n"))
    assert "! " not in end.out


def test_without_a_namespace_the_only_one_is_examined(cli: Cli, running: Server) -> None:
    cli.set(EXOSPHERE_STATE_MANAGER_URI=running.uri, EXOSPHERE_API_KEY=KEY)
    says(
        cli("doctor"),
        0,
        "namespaces: n\n",
        "1 live runtime; 3 nodes",
        "database: ",
        *nothing_in("n"),
    )


@pytest.mark.parametrize("has", ["graph", "limit"])
def test_a_namespace_without_nodes_is_examined(cli: Cli, tmp_path: Path, has: str) -> None:
    with server(tmp_path) as running:
        cli.set(EXOSPHERE_STATE_MANAGER_URI=running.uri, EXOSPHERE_API_KEY=KEY)
        if has == "graph":
            running.ask("PUT", "/v0/namespace/n/graph/broken", graph("Gone"))
        else:
            says(cli("limits", "set", "api", "--at-most", "1", "-n", "n"), 0)
        for end in (cli("doctor"), cli("doctor", "-n", "n")):
            assert "namespaces: n\n" in end.out
            assert "namespace n:" in end.out
            assert "nothing is registered" not in end.out


def test_without_any_namespace_nothing_is_claimed_to_be_examined(cli: Cli, tmp_path: Path) -> None:
    with server(tmp_path) as running:
        cli.set(EXOSPHERE_STATE_MANAGER_URI=running.uri, EXOSPHERE_API_KEY=KEY)
        end = cli("doctor")
        says(end, 0, "- there is no namespace yet", "examined only the settings and the state manager:")


def test_stuck_states_are_found_with_the_reason(cli: Cli, tmp_path: Path) -> None:
    with server(tmp_path) as running:
        at(cli, running.uri).write("nodes.py", NODES)
        here = "/v0/namespace/n"
        running.ask("PUT", f"{here}/nodes/", {"runtime_name": "r", "nodes": [declare("Split")]})
        running.ask("PUT", f"{here}/graph/g", graph("Split"))
        running.ask("PUT", f"{here}/graph/broken", graph("Gone"))
        for _ in range(2):
            running.ask("POST", f"{here}/graph/g/trigger", {"inputs": {}, "store": {}, "start_delay": 0})
        running.ask("POST", f"{here}/states/enqueue", {"nodes": ["Split"], "batch_size": 1})
        end = cli("doctor", "--stale", "0")
        says(end, 1, "! 1 state of Split is QUEUED without a lease, claimed through v0")
        says(end, 1, "! graph broken is INVALID: node 'a': 'Gone' is not registered")
        report = json.loads(cli("doctor", "-o", "json").out)
        assert report["ok"] is False
        assert report["state_manager"]["native"] is True
        assert report["checkup"]["claims"][0]["leaseless"] == 1
        assert report["overview"]["waiting"] == 1
        assert [f["attention"] for f in report["findings"]].count(True) == 1, "the claim is young"


def test_a_state_manager_that_is_killed_during_the_examination_is_a_finding(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(tmp_path) as running:
        original = HttpClient.aclose

        async def then_killed(self: Any) -> None:
            running.process.kill()
            await original(self)

        monkeypatch.setattr(HttpClient, "aclose", then_killed)
        end = at(cli, running.uri)("doctor")
        says(end, 1, "! it could not be examined further", "cannot be reached")


def graph(node: str) -> dict[str, Any]:
    place = {"node_name": node, "namespace": "n", "identifier": "a", "inputs": {}, "next_nodes": []}
    return {"secrets": {}, "nodes": [{**place, "unites": None}]}


# -- state managers that speak only v0


def test_a_namespace_that_is_unknown_at_a_server_that_speaks_only_v0_is_pointed_out(
    cli: Cli, tmp_path: Path
) -> None:
    with server(tmp_path, "--v0-only") as running:
        end = at(cli, running.uri)("doctor")
        says(end, 1, "kind: speaks only v0", "! nothing is registered in namespace n")
        cli.write("g.json", graph("Gone"))
        cli("graph", "apply", "g.json", "--name", "g")
        end = at(cli, running.uri)("doctor")
        assert "nothing is registered" not in end.out, "a namespace may have graphs before it has nodes"


def test_an_invalid_graph_is_found_at_any_state_manager(cli: Cli) -> None:
    with doctored() as (stock, uri):
        stock.graphs["n", "g"] = {"body": graph("Gone"), "looks": 0, "errors": ["node 'a': gone"]}
        end = at(cli, uri, stocks.KEY)("doctor")
        says(end, 1, "kind: speaks only v0", "! graph g is INVALID: node 'a': gone")


# -- outboxes


def test_only_outboxes_that_are_named_are_examined(cli: Cli, running: Server) -> None:
    says(at(cli, running.uri)("doctor", "--outbox", "absent.db"), 1, "! there is no outbox absent.db")
    assert "absent.db" not in os.listdir(cli.folder)


# -- as a process


def test_it_works_as_a_process_with_warnings_as_errors(tmp_path: Path) -> None:
    end = ended("doctor", cwd=tmp_path)
    says(end, 2, "no state manager is given")
