"""``keys``, and commands with named keys."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.support.commands import NODES, Cli
from tests.support.helpers import declare, place
from tests.support.pages import PRODUCTION, block, commands
from tests.support.processes import KEY, Server, server


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("keys")) as started:
        yield started


@pytest.fixture
def cli(bare: Cli, at: Server) -> Cli:
    return bare.at(at)


def test_each_part_gets_a_key_as_the_page_says_and_one_is_revoked(cli: Cli) -> None:
    printed = []
    for words in commands(block(PRODUCTION, "keys add greeter --scope runtime:Greeter --out").code):
        printed.append(cli(*words, code=0).out)
    runtime, _, ada, listed = printed
    revoked = cli("keys", "revoke", "ada", code=0).out
    assert re.fullmatch(r"greeter\.key: key greeter \([a-z0-9]{8}\), valid forever\n", runtime)
    assert re.fullmatch(r"exo_[a-z0-9]{8}_[\w-]{43}\n", ada)
    assert [row.split()[0] for row in listed.splitlines()[1:-1]] == ["ada", "ci", "greeter"]
    assert "runtime:Greeter" in listed
    assert ada.strip() not in listed
    assert re.fullmatch(r"key ada \([a-z0-9]{8}\) is revoked\n", revoked)
    written = Path("greeter.key")
    assert written.stat().st_mode & 0o777 == 0o600
    refused = cli("keys", "ls", "--key-file", "greeter.key", code=5).err
    assert "the key 'greeter' lacks the scope admin" in refused
    assert "python -m exotrio keys add NAME --scope admin" in refused
    assert "give a key that may do this" in refused
    assert cli("runs", "ls", "-n", "Greeter", "--key-file", "ci.key", code=0).out


def test_a_file_that_is_there_is_not_replaced_and_no_key_is_added(cli: Cli) -> None:
    cli.write("mine.key", "something else")
    before = len(json.loads(cli("keys", "ls", "-o", "json", code=0).out)["keys"])
    refused = cli("keys", "add", "x", "--scope", "read:*", "--out", "mine.key", code=2).err
    assert "the key cannot be written to mine.key: File exists" in refused
    assert Path("mine.key").read_text() == "something else"
    cli("keys", "add", "x", "--scope", "reed:*", "--out", "new.key", code=3)
    assert not Path("new.key").exists()
    assert len(json.loads(cli("keys", "ls", "-o", "json", code=0).out)["keys"]) == before


def test_a_key_is_printed_as_json_too(cli: Cli) -> None:
    added = cli.json("keys", "add", "scraper", "--scope", "admin", "--expires", "2h")
    assert added["key"].startswith(f"exo_{added['id']}_")
    assert added["scopes"] == ["admin"]
    assert re.search(r"expires \S+:\d\d:\d\dZ", cli("keys", "ls").out), "to the second: it may be 30 s"
    (revoked,) = cli.json("keys", "revoke", added["id"])["keys"]
    assert re.search(r"^\d+ keys?, [1-9]\d* revoked or expired$", cli("keys", "ls").out, re.MULTILINE)
    assert not revoked["is_valid"]
    assert "there is no key" in cli("keys", "revoke", "nothing", code=6).err


def test_the_key_is_read_from_a_file_that_a_variable_names(cli: Cli, at: Server) -> None:
    cli("keys", "add", "reader", "--scope", "read:*", "--out", "reader.key", code=0)
    cli.unset("EXOSPHERE_API_KEY")
    cli.set(EXOSPHERE_API_KEY_FILE="reader.key")
    assert cli("runs", "ls", code=0).out
    assert "lacks the scope admin" in cli("keys", "ls", code=5).err
    cli.set(EXOSPHERE_API_KEY_FILE="missing.key")
    missing = cli("runs", "ls", code=2).err
    assert "the key file missing.key cannot be read" in missing
    assert "EXOSPHERE_API_KEY_FILE" in missing


def test_a_job_stores_a_graph_and_a_colleague_starts_runs_with_what_the_page_gives_them(cli: Cli) -> None:
    cli.write("nodes.py", NODES)
    scopes_of = {
        "ci": ("graphs:n", "read:n"),
        "store": ("graphs:n",),
        "ada": ("trigger:n", "read:n"),
        "bot": ("trigger:n",),
    }
    for name, scopes in scopes_of.items():
        options = [word for scope in scopes for word in ("--scope", scope)]
        cli("keys", "add", name, *options, "--out", f"{name}.key", code=0)
    with_key = {name: ("--key-file", f"{name}.key") for name in scopes_of}
    refused = cli("graph", "apply", "nodes.py", *with_key["ada"], code=5).err
    assert "lacks the scope graphs:n;" in refused
    nodes = {
        "runtime_name": "r",
        "nodes": [declare("Split", ["count"], ["n"]), declare("Work", ["n", "bad"])],
    }
    with httpx.Client(base_url=os.environ["EXOSPHERE_STATE_MANAGER_URI"], headers={"x-api-key": KEY}) as root:
        root.put("/v0/namespace/n/nodes/", json=nodes).raise_for_status()
    made = cli("limits", "set", "svc", "--at-most", "2", *with_key["store"], code=0).out
    assert made == "limit svc: 2 at once\nno graph names it\n"
    applied = cli("graph", "apply", "nodes.py", *with_key["store"], code=0).out
    assert applied == cli("graph", "apply", "nodes.py", *with_key["ci"], code=0).out
    run_id = cli("trigger", "fan", *with_key["ada"], code=0).out.split()[0]
    assert "lacks the scope trigger:n;" in cli("trigger", "fan", *with_key["ci"], code=5).err
    cli("trigger", "fan", *with_key["bot"], code=0)
    Path("lines").write_text("{}", "utf-8")
    cli("trigger", "fan", "--each", "lines", *with_key["bot"], code=0)
    assert "lacks the scope read:n;" in cli("runs", "show", run_id, *with_key["bot"], code=5).err
    assert run_id in cli("runs", "show", run_id, *with_key["ada"], code=0).out
    assert "lacks the scope graphs:n;" in cli("runs", "cancel", run_id, *with_key["ada"], code=5).err
    # Without the scope read: a run is not looked up, so its whole id is needed.
    for command in (("priority", "high"), ("send", "go"), ("retry",), ("cancel",)):
        done = cli("runs", command[0], run_id, *command[1:], *with_key["store"])
        assert done.code == 0 or "has no failed states" in done.err
        refused = cli("runs", command[0], run_id[:8], *command[1:], *with_key["store"], code=5).err
        assert "lacks the scope read:n;" in refused
        assert "give its whole id: " in refused
    unknown = f"{uuid4()}"
    assert unknown in cli("runs", "cancel", unknown, *with_key["store"], code=6).err
    cli("runs", "cancel", run_id[:8], *with_key["ci"], code=0)


def test_doctor_says_which_key_sees_the_database(cli: Cli) -> None:
    for name, *scopes in (("narrow", "read:n"), ("wide", "read:*"), ("operator", "read:n", "admin")):
        options = [word for scope in scopes for word in ("--scope", scope)]
        cli("keys", "add", name, *options, "--out", f"{name}.key", code=0)
        shown = cli("doctor", "--key-file", f"{name}.key").out
        assert ("database: hidden from this key" in shown) == (name == "narrow")
        assert ("a key with the scope read:* or admin sees their condition" in shown) == (name == "narrow")
        assert ("write-ahead log" in shown) == (name != "narrow")


def test_a_scope_of_a_namespace_with_a_colon_is_pointed_out(cli: Cli) -> None:
    added = cli("keys", "add", "one", "--scope", "runtime:shop:Fetch", "--out", "one.key", code=0)
    assert "warning: scope runtime:shop:Fetch is for a namespace named 'shop:Fetch'" in added.err
    assert "use runtime:shop for the namespace 'shop'" in added.err
    assert (
        "warning" not in cli("keys", "add", "two", "--scope", "runtime:shop", "--out", "two.key", code=0).err
    )


def test_doctor_names_states_that_runtimes_hold_by_the_root_key(cli: Cli, at: Server) -> None:
    cli("keys", "add", "any", "--scope", "read:*", code=0)
    assert "root key" not in cli("doctor").out
    root = httpx.Client(base_url=at.uri, headers={"x-api-key": KEY})
    nodes = {"runtime_name": "r", "nodes": [declare("Held")]}
    graph = {"nodes": [place("held", node_name="Held", namespace="n")], "secrets": {}}
    with root:
        root.put("/v0/namespace/n/nodes/", json=nodes).raise_for_status()
        root.put("/v0/namespace/n/graph/held", json=graph).raise_for_status()
        root.post("/v0/namespace/n/graph/held/trigger", json={}).raise_for_status()
        root.post("/v0/namespace/n/states/enqueue", json={"nodes": ["Held"], "batch_size": 1})
    assert "! runtimes that use the root key hold 1 state" in cli("doctor").out


def test_doctor_names_keys_that_expire_soon_and_keys_that_were_never_used(cli: Cli) -> None:
    cli("keys", "add", "old", "--scope", "read:*", "--expires", "6d", code=0)
    cli("keys", "add", "new", "--scope", "read:*", "--expires", "8d", code=0)
    findings = cli("doctor").out
    assert re.search(r"! the key old \(\w{8}\) expires ", findings)
    assert not re.search(r"the key new \(\w{8}\) expires ", findings)
    assert re.search(r"- the key new \(\w{8}\) was never used", findings)
