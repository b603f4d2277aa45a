"""``audit ls``, and by whom a run was changed."""

from __future__ import annotations

from tests.support.commands import NODES, Cli
from tests.support.pages import PRODUCTION, block, commands


def test_changes_are_listed_as_the_page_on_production_says(bare: Cli) -> None:
    cli = bare
    cli.write("nodes.py", NODES)
    # In the database of this folder, without a server: the first run makes it.
    assert cli("run", "nodes.py").code == 0
    run_id = cli.json("trigger", "fan", "--start-delay", "3600")["run_id"]
    assert cli("runs", "cancel", run_id).code == 0
    of_run, of_ci = commands(block(PRODUCTION, "audit ls --target").code)
    (cancel,) = cli.json(*(run_id[:6] if each == "3f9c2d" else each for each in of_run))["changes"]
    assert (cancel["who"], cancel["action"], cancel["target"]) == ("in process", "run.cancel", run_id)
    assert cli.json("audit", "ls", "--since", "2d", "--until", "1h")["changes"] == []
    shown = cli("audit", "ls", "--limit", "1").out.splitlines()
    assert shown[0].split() == ["at", "who", "from", "action", "namespace", "target", "result", "request"]
    assert {"run.cancel", run_id} <= {*shown[1].split()}
    assert shown[-1] == "1 change; more with --limit"
    stored = cli.json("audit", "ls", "--by", "in process", "--action", "graph")["changes"]
    assert {change["action"] for change in stored} == {"graph.store"}
    none = cli(*of_ci)
    assert (none.out, none.err) == ("0 changes\n", "")
    shown_run = cli("runs", "show", run_id).out
    assert ", started by in process\n" in shown_run
    assert "cancelled (1 state cancelled) by in process at" in shown_run
