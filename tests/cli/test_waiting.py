"""Runs that wait for events: what commands say of them, and the commands that answer."""

from __future__ import annotations

import re
import shlex

import pytest

from exotrio.cli.dev.messages import missing_nodes
from exotrio.cli.file_process import Loaded
from tests.support.commands import Cli, fails
from tests.support.pages import GUIDE, block, commands

APPROVAL = """
from datetime import timedelta
from pydantic import BaseModel
from exotrio import BaseNode, Graph, Runtime

class Approval(BaseModel):
    ok: bool
    by: str
    why: str = ""

class Ship(BaseNode):
    class Inputs(BaseModel):
        ok: bool
        by: str

    class Outputs(BaseModel):
        text: str

    async def execute(self):
        return self.Outputs(text=f"{self.inputs.ok} by {self.inputs.by}")

graph = Graph("orders", namespace="n")
approved = graph.wait("approved", Approval, timeout=timedelta(days=3))
graph.add(Ship, ok=approved.ok, by=approved.by)
runtime = Runtime(namespace="n", name="r", nodes=[Ship])
"""


def commands_in(text: str) -> list[list[str]]:
    """Return the arguments of the commands that are printed."""
    return [shlex.split(line)[3:] for line in re.findall(r"\S+ -m exotrio .*", text)]


def test_a_run_that_waits_ends_the_command_which_says_how_to_send_the_event_and_to_go_on(bare: Cli) -> None:
    bare.write("orders.py", APPROVAL)
    end = bare("run", "orders.py", code=8)
    assert end.out.startswith("PENDING: 1 state in ")
    assert re.search(r"approved waits for event approved until \S+; to send it:\n", end.err)
    send, resume = commands_in(end.err)
    assert send[:2] == ["runs", "send"]
    assert send[3:8] == ["approved", "-i", "ok=true", "-i", "by=TEXT"], "what has a default may be left out"
    run = send[2]
    bare(*resume, code=8)  # it still waits
    sent = bare(*send, code=0)
    assert sent.out == "event approved sent: 1 state waited for it\n"
    assert f"--resume {run}" in sent.err, "nothing executes what follows"
    assert bare(*resume, code=0).out.splitlines()[-2:] == ["ship:", "  text: True by TEXT"]
    assert bare.json("runs", "show", run)["status"] == "SUCCESS"


CHILD = """
approval = Graph("approval", namespace="n")
approval.wait("approved", Approval)
class Slow(BaseNode):
    async def execute(self):
        await trio.sleep(SECONDS)
class Nothing(BaseNode):
    async def execute(self):
        pass
slow = Graph("slow", namespace="n")
slow.add(Nothing, after=slow.add(Slow))  # a drain ends the first one only
graph = Graph("parent", namespace="n")
graph.add(GRAPH)
runtime = Runtime(namespace="n", name="r", nodes=[Ship, Slow, Nothing])
"""


def test_what_a_child_waits_for_is_said_with_the_command_that_sends_it(bare: Cli) -> None:
    bare.write("orders.py", f"import trio{APPROVAL}{CHILD}".replace("GRAPH)", "approval)"))
    end = bare("run", "orders.py", "--graph", "parent", code=8)
    found = r"approved of run (\S+) of graph approval waits for event approved; to send it:\n"
    assert (below := re.search(found, end.err))
    send, resume = commands_in(end.err)
    assert send[:4] == ["runs", "send", below[1], "approved"]
    bare(*resume, code=8)
    bare(*send, code=0)
    bare(*resume, code=0)


def test_events_are_named_of_more_children_than_a_run_shows(bare: Cli) -> None:
    fields = "    class Outputs(BaseModel):\n        number: int\n    async def execute(self)"
    several = f"class Several(BaseNode):\n{fields} -> list[Outputs]:\n"
    several += "        return [self.Outputs(number=number) for number in range(101)]\n"
    text = CHILD.replace("class Slow", f"{several}class Slow", 1).replace("nodes=[", "nodes=[Several, ")
    bare.write(
        "orders.py", f"import trio{APPROVAL}{text}".replace("GRAPH)", "approval, after=graph.add(Several))")
    )
    end = bare("run", "orders.py", "--graph", "parent", code=8)
    assert "waits for event approved; to send it:" in end.err
    assert "... and for 96 more events" in end.err


def test_a_run_whose_child_goes_on_is_waited_for(bare: Cli) -> None:
    places = "Nothing, identifier='a')\ngraph.add(slow, after=a)\ngraph.add(approval, after=a)"
    text = f"import trio{APPROVAL}{CHILD}"
    text = text.replace("graph.add(GRAPH)", f"a = graph.add({places}").replace("SECONDS", "0.5")
    bare.write("orders.py", text)
    end = bare("run", "orders.py", "--graph", "parent", code=8)
    assert "waits for event approved; to send it:" in end.err
    (run,) = [each for each in bare.json("runs", "ls")["runs"] if each["graph_name"] == "slow"]
    assert run["status"] == "SUCCESS"


def test_the_command_that_answers_works_for_a_name_that_looks_like_an_option(bare: Cli) -> None:
    bare.write(
        "orders.py", APPROVAL.replace('"approved", Approval', '"--help", Approval, identifier="approved"')
    )
    send, resume = commands_in(bare("run", "orders.py", code=8).err)
    assert bare(*send, code=0).out == "event --help sent: 1 state waited for it\n"
    bare(*resume, code=0)


def test_the_first_value_of_an_event_counts_and_a_wrong_one_is_refused(bare: Cli) -> None:
    bare.write("orders.py", APPROVAL)
    bare("run", "orders.py", "--run-key", "order-1", code=8)
    fails(bare("runs", "send", "order-1", "approved", "-i", "ok=maybe", "-i", "by=ada"), 3, "true or false")
    fails(bare("runs", "send", "order-1", "approved", "-i", "ok=true", "-i", "bye=ada"), 3, "no field 'bye'")
    fails(bare("runs", "send", "order-2", "approved"), 6, "order-2")
    (printed,) = commands(block(GUIDE, "runs send RUN").code)
    answer = ["order-1" if each == "RUN" else each for each in printed]
    assert bare.json(*answer) | {"run_id": ""} == {
        "run_id": "",
        "name": "approved",
        "created": True,
        "woken": 1,
        "similar": None,
    }
    assert bare(*answer).out == "event approved was sent before with the same value: nothing changed\n"
    fails(bare(*answer[:-1], "by=alan"), 3, "sent before, with another value")
    early = bare("runs", "send", "order-1", "packed").out
    assert early == "event packed sent: no state waits for it now, so it is kept\n"
    misspelt = bare("runs", "send", "order-1", "aproved", code=0).out
    assert misspelt.endswith("kept, but no place of the graph waits for it; did you mean 'approved'?\n")


def test_a_place_that_waits_needs_no_node_of_a_runtime(bare: Cli) -> None:
    bare.write("orders.py", APPROVAL)
    assert bare("graph", "check", "orders.py", code=0).out == "orders.py: graph orders is valid\n"
    bare.write(
        "both.py", APPROVAL.replace("by=approved.by", "by=approved.by, when=approved.ok and approved.ok")
    )
    assert "give a comparison of it to when= of graph.add" in bare("graph", "check", "both.py", code=3).out
    bare.write("wrong.py", APPROVAL.replace("by=approved.by", "by=f'{approved.by} {approved.how}'"))
    assert (
        "has no output 'how': its outputs are ok, by, why" in bare("graph", "check", "wrong.py", code=3).out
    )
    graph = {"nodes": [{"namespace": "n", "node_name": "wait for event", "identifier": "approved"}]}
    loaded = Loaded(
        namespace="n",
        runtime="r",
        worker_id="w",
        nodes={"Ship": {}},
        graphs={"orders": graph},
        files=[],
        grace=1.0,
    )
    assert list(missing_nodes("orders", loaded)) == []


def test_a_new_priority_of_a_large_run_says_how_many_states_follow(
    bare: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exotrio.manager.engine.moves.PORTION", 2)
    waits = 'graph = Graph("many", namespace="n")\nfirst = graph.add(Ship, ok="true", by="me")\n'
    waits += "".join(f'graph.wait("w{number}", Approval, after=first)\n' for number in range(3))
    bare.write("many.py", APPROVAL + waits)
    bare("run", "many.py", "--graph", "many", code=8)
    (run,) = bare.json("runs", "ls")["runs"]
    end = bare("runs", "priority", run["run_id"], "low", code=0)
    assert end.out.endswith("1 more state will have this priority soon: they are moved in portions\n")
    end = bare("runs", "priority", run["run_id"], "low", code=0)
    assert "more state" not in end.out, "it has that priority"


def test_a_run_whose_deadline_passed_while_nothing_ran_goes_on(bare: Cli) -> None:
    soon = APPROVAL.replace("days=3", "milliseconds=1").replace(
        "timeout=", "on_timeout=Approval(ok=False, by='the deadline'), timeout="
    )
    bare.write("orders.py", soon)
    end = bare("run", "orders.py", code=0)
    assert end.out.splitlines()[-1] == "  text: False by the deadline"
    (state,) = (each for each in bare.json("states", "ls")["states"] if each["no_event"])
    for command in (["states", "ls"], ["states", "show", state["id"]]):
        assert "for an event: none was sent in time" in bare(*command).out, command
    assert "attempt" not in bare("states", "show", state["id"]).out


def test_commands_show_what_states_wait_for(bare: Cli) -> None:
    bare.write("orders.py", APPROVAL)
    bare("run", "orders.py", code=8)
    (state,) = bare.json("states", "ls", "--status", "WAITING")["states"]
    waits = r"waits for event approved since \S+, until \S+"
    for command in (
        ["states", "ls"],
        ["states", "show", state["id"]],
        ["runs", "show", state["run_id"]],
    ):
        assert re.search(waits, bare(*command).out), command
    for command in (["runs", "ls"], ["runs", "show", state["run_id"]]):
        assert "PENDING (waiting)" in bare(*command).out
    diagnosis = bare("doctor", code=0).out
    assert "0 running, 0 waiting, 1 waiting for events or runs\n" in diagnosis
    assert "nothing urgent" in diagnosis
    top = bare("top").out
    assert "1 waiting for events" in top
    assert re.search(rf"^{state['run_id'][:8]} +orders +waiting ", top, re.MULTILINE)
    bare("export", state["run_id"], "run.html", code=0)
    exported = (bare.folder / "run.html").read_text(encoding="utf-8")
    assert not re.search("been running|still running", exported)
