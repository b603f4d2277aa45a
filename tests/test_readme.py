"""The pages: their code runs as printed, and they leave nothing out. For commands: ``test_page_commands``."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import click
import pytest
import trio
from pydantic import create_model
from trio.testing import MockClock

import exotrio
from exotrio import BaseNode, Graph, GraphInvalid, GraphNodeModel, RequestRefused, RetryPolicyModel, Stopping
from exotrio._shared.settings import VARIABLES
from exotrio._util.cron import next_occurrence_ms
from exotrio._util.times import moment_ms
from exotrio._wire.graphs import GraphBody
from exotrio._wire.limits import LimitWait
from exotrio.cli import cli
from exotrio.manager import embedded
from exotrio.manager.rules.template import Template
from exotrio.testing import CheckFailed, Errored, Executed, HandedOver, Requeued, Waiting, run_graph, run_node
from tests.support.helpers import declare
from tests.support.pages import (
    GUIDE,
    PAGES,
    PROOF,
    README,
    Block,
    assert_prints,
    block,
    in_shell,
    save,
    shell,
    text,
    without_code,
)
from tests.support.processes import KEY, ROOT, Process, Processes, ended, server

# Blocks of the pages that several tests below run.
GREET = block(README, "class Greet(")
WORDS = block(GUIDE, "class Split(")
WORDS_RUN = block(GUIDE, 'run words.py -i text="one three"')
WORDS_PRINTS = block(GUIDE, "length: 5\n")
PRICE = block(GUIDE, "class Price(")
EXPLORE = block(GUIDE, "await explore(graph")


def test_links_between_the_pages_have_targets() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)]+)\)", without_code(page)):
            if link.startswith("https://"):
                continue
            path, _, anchor = link.partition("#")
            target = (ROOT / page).parent / path if path else ROOT / page
            assert target.exists(), f"{page}: {link}"
            if anchor:
                headings = re.findall(
                    r"^#+ (.+)$", without_code(str(target.resolve().relative_to(ROOT))), re.M
                )
                assert anchor in [_anchor(heading) for heading in headings], f"{page}: {link}"


def _anchor(heading: str) -> str:
    """Return what GitHub makes of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_the_readme_is_read_in_two_minutes() -> None:
    assert len(text(README).splitlines()) <= 150


# -- all of it is in the pages


def _commands(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            assert member is not None
            yield from _commands(member, *path, name)
    else:
        yield path, command


def test_each_command_and_its_options_are_in_the_guide() -> None:
    reference = text(GUIDE).partition("### Commands")[2].partition("### Runtime")[0]
    rows = [(re.findall(r"[\w-]+", row.split("|")[1]), row) for row in reference.splitlines() if "| `" in row]
    for path, command in _commands(cli):
        (row,) = [row for words, row in rows if words[0] == path[0] and path[-1] in words]
        for parameter in command.params:
            option = max(parameter.opts, key=len)
            shown = isinstance(parameter, click.Option) and not parameter.hidden
            if shown and option not in SHARED_OPTIONS:
                assert re.search(rf"{option}[` ]", row), f"{' '.join(path)} {option}"


SHARED_OPTIONS = {
    "--help",
    "--verbose",
    "--log-format",
    "--output",
    "--namespace",
    "--uri",
    "--key-file",
    "--db",
}


def test_each_double_that_the_page_on_tests_names_exists() -> None:
    lines = text(PROOF).partition("## Which double")[2].splitlines()
    cells = [line.split("|")[2:4] for line in lines if line.startswith("| ") and ".py`" in line]
    assert len(cells) > 15
    for names, files in ([re.findall(r"`([^`]+)`", cell) for cell in row] for row in cells):
        paths = [path for file in files for path in sorted((ROOT / "tests").glob(_pattern(file)))]
        source = "".join(path.read_text("utf-8") for path in [*paths, ROOT / "tests/manager/conftest.py"])
        for name in re.findall(r"\w+$", "\n".join(names), re.M):
            is_module = name in [path.stem for path in paths]
            assert is_module or re.search(
                rf"^ *(?:async )?(?:def|class) {name}\b|^    {name}: ", source, re.M
            ), name


def _pattern(file: str) -> str:
    return f"{file}**/*.py" if file.endswith("/") else file


def test_every_public_name_is_in_the_guide() -> None:
    guide = text(GUIDE)
    names = [name for name in vars(BaseNode) if not name.startswith("_") and name != "execute"]
    runtime = inspect.signature(exotrio.Runtime).parameters
    calls = [name for name in dir(exotrio.StateManager) if not name.startswith("_") and name != "aclose"]
    for name in (*names, *runtime, *calls, *VARIABLES, "PruneSignal", "NoRetry"):
        assert re.search(rf"`(?:self\.|\w+=)?{name}\b|^    {name} = ", guide, re.M), name


# -- README


def test_the_set_up_installs_what_the_first_steps_need() -> None:
    main_job = "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/python -m exotrio run"
    assert block(README, "run examples/audit.py").code == f"{main_job} examples/audit.py\n"
    next_to_it = block(GUIDE, "pytest-trio").code.replace('"$OLDPWD" pytest-trio', ".")
    assert next_to_it.splitlines() == [
        "mkdir ../words && cd ../words",
        main_job.partition(" && .venv/bin/python")[0],
    ]
    tests = "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m pytest\n"
    assert block(README, "-m pytest").code == tests
    assert "grep -E '^python3 -m venv .*pytest' README.md" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_the_first_node_greets(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(GREET.code, "utf-8")
    end = ended("run", "hello.py", "-i", "name=Ada", cwd=tmp_path, code=0)
    assert end.out.splitlines()[-1].strip() == "text: Hello, Ada!"


async def test_the_test_of_the_first_node_passes(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    hello = ModuleType("hello")
    monkeypatch.setitem(sys.modules, "hello", hello)
    execute(GREET, vars(hello))
    await execute(block(README, "await run_graph("))["test_everyone_is_greeted"](autojump_clock)


# -- guide: the tutorial, and what builds on its files


def test_the_tutorial_works_as_printed(tmp_path: Path) -> None:
    for each in (
        WORDS,
        block(GUIDE, "test_each_word_is_measured"),
        block(GUIDE, "[pytest]"),
        block(GUIDE, '"retry_policy"'),
    ):
        save(each, tmp_path)
    code, printed = shell(WORDS_RUN, tmp_path)
    assert code == 0, printed
    progress, result = WORDS_PRINTS.code.split("split", 1)[0], WORDS_PRINTS.code.partition("\nSUCCESS")[2]
    assert_prints(printed, progress)
    assert_prints(printed, f"SUCCESS{result}")

    code, printed = shell(block(GUIDE, "states ls --place measure"), tmp_path)
    assert code == 0, printed
    assert "2 states" in printed
    assert "length" in printed

    code, printed = shell(block(GUIDE, "-m pytest -q test_words.py"), tmp_path)
    assert code == 0, printed
    assert block(GUIDE, "1 passed").code.strip() in printed

    code, printed = shell(block(GUIDE, "graph check words.json"), tmp_path)
    assert (code, printed) == (0, block(GUIDE, "words.json: graph words is valid").code)

    (tmp_path / "words.py").write_text(WORDS.code.replace("split.word)", "split.wrod)"), "utf-8")
    code, printed = shell(WORDS_RUN, tmp_path)
    assert (code, printed) == (
        3,
        block(GUIDE, "did you mean 'word'?").code.replace("/home/you/words", str(tmp_path)),
    )


def test_a_deploy_of_the_words_is_rehearsed(tmp_path: Path) -> None:
    save(WORDS, tmp_path)
    code, printed = shell(block(GUIDE, "rehearse words.py"), tmp_path)
    assert code == 0, printed
    expected = block(GUIDE, "all 4 runs ended").code.splitlines()
    assert [
        line.split()[0] for line in printed.splitlines() if not line.startswith(("cut:", "ran again"))
    ] == [line.split()[0] for line in expected if not line.startswith(("cut:", "ran again"))]
    assert printed.splitlines()[-1] == expected[-1]


def test_the_breaking_change_of_the_words_is_found_as_printed(tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text(WORDS.code, "utf-8")
    split, measure, rest = re.split(r"(?=class Measure|graph = )", WORDS.code)
    measure = measure.replace("word: str", "text: str").replace("inputs.word", "inputs.text")
    (tmp_path / "words.py").write_text(split + measure + rest.replace("word=split", "text=split"), "utf-8")
    command = block(GUIDE, "rehearse old.py").code.splitlines()[-1].replace("4", "1")
    code, printed = shell(command, tmp_path)
    assert code == 1, printed
    assert block(GUIDE, "breaking changes:").code in printed


async def test_the_update_of_the_words_is_explored(
    words: dict[str, Any], monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setitem(sys.modules, "old", sys.modules["words"])
    names = execute(block(GUIDE, "import old"))
    await names["test_runs_in_progress_survive_the_update"](autojump_clock)


def test_the_words_are_run_on_several_machines(tmp_path: Path) -> None:
    for each in (WORDS, block(GUIDE, 'async with StateManager("tutorial") as manager')):
        save(each, tmp_path)
    assert block(GUIDE, "exotrio server\n").code == "python -m exotrio server\n"
    with Processes() as processes:
        listening = processes.start("server", "--port", "0", cwd=tmp_path)
        uri = listening.line(r"serving .* on (http://[^\s\"]+)")[1]
        variables, worker = (
            block(GUIDE, "exotrio worker words.py").code.replace("http://127.0.0.1:8000", uri).splitlines()
        )
        command = ["bash", "-ec", f"{variables}\nexec {worker}"]
        processes.enter_context(Process(command, cwd=tmp_path, env=in_shell(tmp_path))).line("is registered")
        code, printed = shell(f"{variables}\n{block(GUIDE, 'trigger words -n tutorial').code}", tmp_path)
    assert code == 0, printed
    assert_prints(printed, "SUCCESS: 4 states in 0.0 s (run 7c175303-1669-4ae8-950f-c6bcbefa3eec)")
    assert printed.splitlines()[-3:] == ["SUCCESS", "3", "5"]


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of ``words.py``, which can be imported."""
    module = ModuleType("words")
    monkeypatch.setitem(sys.modules, "words", module)
    return execute(WORDS, vars(module))


def execute(
    block: Block, names: dict[str, Any] | None = None, *, before: str = "", code: str = ""
) -> dict[str, Any]:
    """Execute a block, or what a test made of its code, with these names; return all that there are then."""
    names = {} if names is None else names
    names.setdefault("__name__", "page")
    exec(compile(before + (code or block.code), block.page, "exec", dont_inherit=True), names)
    return names


async def test_a_node_is_tested_alone(words: dict[str, Any]) -> None:
    await execute(block(GUIDE, "await run_node(Measure"))["test_a_word_is_measured"]()


async def test_the_embedded_state_manager_runs_the_graph(
    words: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    imports = "import trio\nfrom exotrio import StateManager\nfrom exotrio.manager import embedded\n"
    await execute(block(GUIDE, 'embedded(":memory:") as transport,'), words, before=imports)["main"]()
    assert capsys.readouterr().out == "SUCCESS\n"


# -- guide: nodes


FROM = """
import os
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated
from pydantic import BaseModel, Field
from exotrio import BaseNode, Graph, HandOver, NoRetry, ReQueueAfterSignal, RetryPolicyModel
"""
PRICED = """
    async def execute(self):
        assert self.inputs.due == date(2024, 1, 31)
        return self.Outputs(total=self.inputs.count * sum(self.inputs.rates))
"""


async def test_the_typed_node_accepts_and_returns_text() -> None:
    price = execute(PRICE, before=FROM, code=PRICE.code + PRICED)["Price"]
    inputs = {"count": "3", "due": "2024-01-31", "rates": '["1.10","2.00"]'}
    assert await run_node(price, inputs) == Executed([{"total": "9.30"}])


def test_the_node_in_a_process_is_stopped_in_time(tmp_path: Path) -> None:
    solver = "import re\ndef solve(model):\n    re.match('(a+)+$', 'a' * 60 + 'b')\n"
    imports = "import trio\nfrom exotrio.testing import run_node\nimport solver\n"
    start = "if __name__ == '__main__':\n    print(trio.run(run_node, Solve, {'model': 'x'}).error)\n"
    (tmp_path / "solver.py").write_text(solver, "utf-8")
    code = FROM + imports + block(GUIDE, "class Solve(").code.replace("= 60", "= 1") + start
    (tmp_path / "solve.py").write_text(code, "utf-8")
    assert shell("python solve.py", tmp_path) == (0, "timed out after 1 s (timeout of Solve)\n")


async def test_the_node_in_steps_is_run_again_if_it_has_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[int] = []
    convert = execute(block(GUIDE, "class Convert("), {"convert": converted.append}, before=FROM)["Convert"]
    assert await run_node(convert, {"pages": "3"}) == Executed([{"done": "3"}])
    assert converted == [0, 1, 2]
    monkeypatch.setattr(convert, "stopping", Stopping.DRAINING)
    assert await run_node(convert, {"pages": "3"}) == HandedOver()


async def test_the_long_node_continues_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[str] = []
    module = ModuleType("imports")
    monkeypatch.setitem(sys.modules, "imports", module)
    vars(module)["insert"] = lambda row, text: rows.append(text)
    node = execute(block(GUIDE, "class Import("), vars(module), before=FROM)["Import"]
    (tmp_path / "rows").write_text("a\nb\nc", "utf-8")
    assert await run_node(node, {"file": str(tmp_path / "rows")}) == Executed([{"rows": "3"}])
    names = execute(block(GUIDE, "from imports import Import"))
    await names["test_a_stop_costs_no_row"](tmp_path)
    assert rows == ["a", "b", "c", "b"]


async def test_the_node_that_pays_never_pays_twice() -> None:
    paid: list[str] = []

    async def pay(invoice: str) -> None:
        paid.append(invoice)
        raise ConnectionError

    node = execute(block(GUIDE, "class PayAll("), {"pay": pay}, before=FROM)["PayAll"]
    checkpoint = None
    for _ in range(2):
        outcome = await run_node(node, {"invoices": ["1", "2"]}, checkpoint=checkpoint)
        assert isinstance(outcome, Errored)
        checkpoint = outcome.checkpoint_of(node)
    assert isinstance(await run_node(node, {"invoices": ["1", "2"]}, checkpoint=checkpoint), Executed)
    assert paid == ["1", "2"]


async def test_the_node_with_a_secret_gets_it_and_its_graph_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def whoami(token: str) -> str:
        return {"t": "Ada"}[token]

    monkeypatch.setenv("SHOP_TOKEN", "t")
    names = execute(block(GUIDE, "class Login("), {"whoami": whoami}, before=FROM)
    assert await run_node(names["Login"], secrets={"token": "t"}) == Executed([{"user": "Ada"}])
    assert names["graph"].secrets == {"token": "t"}


ORDERS = """
class Order(BaseNode):
    class Inputs(BaseModel):
        number: str

    class Outputs(BaseModel):
        card: str
        customer: str

    async def execute(self): ...


class Charge(BaseNode):
    class Inputs(BaseModel):
        card: str

    async def execute(self): ...
"""


async def test_the_charges_keep_within_the_limits_of_the_guide() -> None:
    graph = execute(block(GUIDE, 'graph.limit("stripe", at_most=5)\n'), before=FROM + ORDERS)["graph"]
    body = GraphBody.of(graph)
    assert [(limit.name, limit.at_most) for limit in body.limits] == [("stripe", 5), ("customer", 2)]
    assert Template(body).places[1].limits.keys() == {"stripe", "customer"}
    held: dict[str, Any] = {"held": 2, "holders": [f"{0:020x}0a2f", f"{0:020x}0a31"], "held_ms": 40_000}
    wait = LimitWait(limit="customer", key="17", at_most=2, **held, before=118)
    assert wait.text() == block(GUIDE, "waits for limit customer (17)").code.strip()


async def test_the_version_of_the_guide_is_in_the_nodes_of_the_graph() -> None:
    nodes = "from exotrio import Runtime\n"
    nodes += "".join(
        f"class {name}(BaseNode):\n    async def execute(self): ...\n" for name in ("Pack", "Send")
    )
    names = execute(block(GUIDE, 'nodes=[Pack, Send], version="2026.11.2")'), before=FROM + nodes)
    assert names["runtime"].version == names["graph"].version == "2026.11.2"


ORDER = """
class Order(BaseNode):
    class Inputs(BaseModel):
        number: str

    class Outputs(BaseModel):
        number: str

    async def execute(self):
        return self.Outputs(number=self.inputs.number)


class Ship(BaseNode):
    class Inputs(BaseModel):
        order: str
        ok: bool
        by: str

    class Outputs(BaseModel):
        text: str

    async def execute(self):
        return self.Outputs(text=f"{self.inputs.order} {self.inputs.ok} {self.inputs.by}")
"""


async def test_an_order_waits_for_its_approval(autojump_clock: MockClock) -> None:
    names = execute(block(GUIDE, "on_timeout=Approval(ok=False)\n"), before=FROM + ORDER)
    graph, nodes = names["graph"], [names["Order"], names["Ship"]]
    approval = names["Approval"](ok=True, by="ada")
    run = await run_graph(graph, nodes, store={"number": "17"}, events={"approved": approval})
    assert run.outputs("ship") == [{"text": "17 True ada"}]
    run = await run_graph(graph, nodes, store={"number": "17"})
    assert run.outputs("ship") == [{"text": "17 False "}], "after three days"


BILL = """
class Bill(BaseNode):
    class Inputs(BaseModel):
        order: str

    async def execute(self) -> None:
        raise NoRetry(f"order {self.inputs.order} has no address")
"""


async def test_a_node_tells_which_run_failed() -> None:
    mails: list[tuple[str, ...]] = []

    async def send(*mail: str) -> None:
        mails.append(mail)
        told.set()

    told = trio.Event()
    names = execute(block(GUIDE, "on_failure=alert)\n"), {"send": send}, before=FROM + BILL)
    with trio.fail_after(30):
        async with (
            embedded(":memory:") as transport,
            exotrio.StateManager("shop", transport=transport) as manager,
            trio.open_nursery() as nursery,
        ):
            nodes = [names["Mail"], names["Bill"]]
            runtime = exotrio.Runtime(namespace="shop", name="shop", nodes=nodes, transport=transport)
            await nursery.start(runtime.run)
            for graph in (names["alert"], names["bill"]):
                await manager.upsert_graph(graph)
            run = (await manager.trigger("bill", store={"order": "17"}))["run_id"]
            await told.wait()
            runtime.stop()
    ((to, subject, text),) = mails
    assert (to, subject) == ("ops@example.org", "bill: bill failed")
    assert "NoRetry: order 17 has no address\n" in text
    assert text.endswith(f"\nrun {run}")


INVOICE = """
class Order(BaseNode):
    class Inputs(BaseModel):
        number: int

    class Outputs(BaseModel):
        number: int

    async def execute(self):
        return self.Outputs(number=self.inputs.number)


class Total(BaseNode):
    class Inputs(BaseModel):
        order: int

    class Outputs(BaseModel):
        total: int

    async def execute(self):
        return self.Outputs(total=self.inputs.order)


class Discount(BaseNode):
    class Inputs(BaseModel):
        total: int

    class Outputs(BaseModel):
        total: int

    async def execute(self):
        return self.Outputs(total=self.inputs.total * 9 // 10)


class Ship(BaseNode):
    class Inputs(BaseModel):
        order: int
        total: int

    class Outputs(BaseModel):
        text: str

    async def execute(self):
        return self.Outputs(text=f"{self.inputs.order} for {self.inputs.total}")
"""
SEARCH = """
class Page(BaseNode):
    class Inputs(BaseModel):
        number: int

    class Outputs(BaseModel):
        hits: int
        next: int
        has_more: bool

    async def execute(self):
        number = self.inputs.number
        return self.Outputs(hits=number, next=number + 1, has_more=number < 3)
"""


async def test_a_graph_runs_another_one_and_itself() -> None:
    graphs = execute(block(GUIDE, "graph.add(invoice, order="), before=FROM + INVOICE)
    graphs |= execute(block(GUIDE, "max_rounds=20"), before=FROM + SEARCH)
    nodes = [graphs[name] for name in ("Order", "Total", "Discount", "Ship", "Page")]
    with trio.fail_after(30):
        async with (
            embedded(":memory:") as transport,
            exotrio.StateManager("shop", transport=transport) as manager,
            trio.open_nursery() as nursery,
        ):
            runtime = exotrio.Runtime(namespace="shop", name="shop", nodes=nodes, transport=transport)
            await nursery.start(runtime.run)
            for graph in (graphs["invoice"], graphs["graph"], graphs["search"]):
                await manager.upsert_graph(graph)
            for number, text in (("50", "50 for 50"), ("200", "200 for 180")):
                run = (await manager.trigger("orders", store={"number": number}))["run_id"]
                await manager.wait(run)
                assert [each.text for each in await manager.outputs(run, graphs["Ship"])] == [text]
            run = (await manager.trigger("search"))["run_id"]
            await manager.wait(run)
            assert await manager.outputs(run, "search") == [{"hits": "3"}]
            runtime.stop()


async def test_events_are_sent_by_a_program_and_by_a_link(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = execute(block(GUIDE, "on_timeout=Approval(ok=False)\n"), before=FROM + ORDER)["graph"]
    before = "from datetime import UTC, datetime, timedelta\nfrom exotrio import StateManager\n"
    with server(tmp_path) as running:
        nodes = [declare("Order", ["number"], ["number"]), declare("Ship", ["order", "ok", "by"], ["text"])]
        running.ask("PUT", "/v0/namespace/shop/nodes/", {"runtime_name": "r", "nodes": nodes})
        async with exotrio.StateManager("shop", state_manager_uri=running.uri, key=KEY) as manager:
            await manager.upsert_graph(graph)
            run = (await manager.trigger("orders", store={"number": "17"}))["run_id"]
            await execute(block(GUIDE, "await manager.event_link("), before=before)["ask"](manager, run)
            await execute(block(GUIDE, "await manager.send(run"), before=before)["approve"](manager, run)
            (event,) = (await manager.events(run)).sent
    assert (event.name, event.value) == ("approved", {"ok": "true", "by": "ada"})
    links = capsys.readouterr().out.split()
    assert [link.startswith(f"{running.uri}/event?link=") for link in links] == [True, True]


async def test_the_node_that_waits_is_executed_again_with_its_event() -> None:
    submitted = []

    async def submit(video: str, reply_to: str) -> None:
        submitted.append((video, reply_to))

    before = FROM + "from exotrio import WaitForEvent\n"
    encode = execute(block(GUIDE, "class Encode("), {"submit": submit}, before=before)["Encode"]
    assert await run_node(encode, {"video": "cat"}) == Waiting("encoded-cat", 3600.0)
    assert submitted == [("cat", "https://example.com/encoded/")]
    for value, expected in (({}, Executed), (None, Errored)):
        event = exotrio.AwaitedEvent("encoded-cat", value)
        assert isinstance(await run_node(encode, {"video": "cat"}, event=event), expected)
    assert len(submitted) == 1


async def test_the_warmest_city_is_found_by_children() -> None:
    weather = create_model("Weather", degrees=(int, ...))
    given = {"weather": Graph("weather", namespace="ns"), "Weather": weather}
    warmest = execute(block(GUIDE, "class Warmest("), given, before=FROM)["Warmest"]

    def answer(graph: str, inputs: Mapping[str, str]) -> dict[str, int]:
        assert graph == "weather"
        return {"degrees": {"Oslo": 3, "Rome": 12}[inputs["city"]]}

    run = await run_node(warmest, {"cities": ["Oslo", "Rome"]}, children=answer)
    assert run == Executed([{"city": "Rome"}])


async def test_the_policy_waits_as_long_as_the_guide_says() -> None:
    policy = execute(block(GUIDE, "RetryPolicyModel.exponential("), before=FROM)["graph"].retry_policy
    assert (policy.backoff_factor, policy.exponent, policy.max_retries, policy.max_delay) == (
        500,
        2,
        5,
        60_000,
    )
    default = RetryPolicyModel()
    assert (default.max_retries, default.backoff_factor, default.exponent) == (3, 2000, 2)


async def test_the_paying_node_is_not_retried_after_a_refusal() -> None:
    async def charge(card: str) -> None:
        raise {"locked": PermissionError, "offline": ConnectionError}[card]()

    pay = execute(block(GUIDE, "class Pay("), {"charge": charge}, before=FROM)["Pay"]
    retried = {}
    for card in ("stolen", "locked", "offline"):
        outcome = await run_node(pay, {"card": card})
        assert isinstance(outcome, Errored)
        retried[card] = outcome.retry
    assert retried == {"stolen": False, "locked": False, "offline": True}


async def test_the_node_that_polls_is_run_again_until_the_job_is_done() -> None:
    answers = iter((False, True))

    async def is_done(job: str) -> bool:
        return next(answers)

    wait = execute(block(GUIDE, "class Wait("), {"is_done": is_done}, before=FROM)["Wait"]
    assert await run_node(wait, {"job": "7"}) == Requeued(timedelta(minutes=5).total_seconds())
    assert isinstance(await run_node(wait, {"job": "7"}), Executed)


# -- guide: graphs and runs


def test_the_graph_is_valid_and_its_errors_are_those_that_are_quoted() -> None:
    names: dict[str, Any] = {}
    for node, inputs, outputs in (
        ("Plan", ["root"], ["root"]),
        ("Scan", ["root"], ["path"]),
        ("Digest", ["path", "title"], ["line"]),
        ("Report", ["lines"], []),
    ):
        models = {
            part: create_model(part, **dict.fromkeys(fields, cast(Any, (str, ...))))
            for part, fields in (("Inputs", inputs), ("Outputs", outputs))
        }
        names[node] = type(node, (BaseNode,), models)
    execute(block(GUIDE, "graph.add(Report"), names, before=FROM)
    template = Template(GraphBody.of(names["graph"]))
    edges = {place.identifier: place.next for place in template.places}
    assert edges == {"plan": (1,), "scan": (2,), "digest": (3,), "notify": (), "report": ()}
    quoted = "Scan has no input 'rot'; did you mean 'root'?"
    assert quoted in text(GUIDE)
    with pytest.raises(GraphInvalid, match=re.escape(quoted)):
        names["graph"].add(names["Scan"], identifier="again", rot=names["plan"].root)


async def test_what_was_fanned_out_is_joined(words: dict[str, Any], autojump_clock: MockClock) -> None:
    names = execute(block(GUIDE, "class Total("), words, before="from exotrio import Graph\n")
    run = await run_graph(names["graph"], [names[name] for name in ("Take", "Split", "Measure", "Total")])
    assert run.outputs("total") == [{"total": "9"}]


def test_schedules_of_a_graph_have_a_time_zone_and_a_priority() -> None:
    names = {"graph": Graph("g", [GraphNodeModel(node_name="N", namespace="n", identifier="n")])}
    execute(block(GUIDE, "CronTrigger("), names)
    priorities = GraphBody.of(names["graph"]).schedules
    assert list(priorities.values()) == ["normal", "low"]
    schedule = next(iter(priorities))
    due = next_occurrence_ms(schedule, moment_ms("2026-07-03T12:00:00Z"))
    assert due == moment_ms("2026-07-06T09:00:00+02:00"), "on Monday"


async def test_an_order_that_is_billed_twice_has_one_run_and_runs_have_an_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(tmp_path) as running:
        running.ask("PUT", "/v0/namespace/shop/nodes/", {"runtime_name": "r", "nodes": [declare("A")]})
        inputs = {"order": "", "amount": ""}
        node = {"node_name": "A", "namespace": "shop", "identifier": "a", "inputs": inputs}
        running.ask("PUT", "/v0/namespace/shop/graph/bill", {"secrets": {}, "nodes": [node]})
        for name, value in running.env.items():
            monkeypatch.setenv(name, value)
        before = "from decimal import Decimal\nfrom exotrio import StateManager\n"
        bill = execute(block(GUIDE, "async def bill("), before=before)["bill"]
        assert await bill("17", Decimal("9.50")) == await bill("17", Decimal("9.50"))
        with pytest.raises(RequestRefused, match="'order-17' belongs to the run"):
            await bill("17", Decimal("9.51"))
        for graph in ("report", "order"):
            running.ask("PUT", f"/v0/namespace/shop/graph/{graph}", {"secrets": {}, "nodes": [node]})
        async with exotrio.StateManager("shop") as manager:
            await execute(block(GUIDE, "async def sell("), before=before)["sell"](manager)
            _, *runs = (await manager.find_runs()).runs[::-1]
    assert [(run.graph_name, run.priority, run.weight, run.fair_key) for run in runs] == [
        ("report", "low", 1.0, None),
        ("order", "high", 1.0, None),
        ("order", "normal", 1.0, "customer-17"),
        ("order", "normal", 3.0, "customer-18"),
    ]


REPORTED = """
    async def execute(self):
        return self.Outputs(total=self.inputs.minimum + self.inputs.period.day)
"""


async def test_a_run_is_started_with_values_text_or_an_instance(autojump_clock: MockClock) -> None:
    code = block(GUIDE, "    minimum: Annotated")
    Report = execute(code, before=FROM, code=code.code + REPORTED)["Report"]
    graph = Graph("report", namespace="shop")
    report = graph.add(Report, period="2026-01-31")
    period, returned = date(2026, 9, 1), [Report.Outputs(total=Decimal(1))]
    for inputs in ({"period": period}, {"period": "2026-09-01"}, Report.Inputs(period=period)):
        run = await run_graph(graph, [Report], inputs=inputs)
        assert run.outputs(report) == run.outputs(Report) == returned
        assert run.outputs("report") == [{"total": "1"}]
        assert (await run_node(Report, inputs)).outputs_of(Report) == returned
    with pytest.raises(RequestRefused) as refused:
        await run_graph(graph, [Report], inputs={"minimum": -1})
    assert block(GUIDE, "it is '-1'").code.rstrip() in refused.value.what


def test_the_import_of_the_sdk_is_changed_as_printed() -> None:
    added = block(GUIDE, "+from exotrio import").code.splitlines()[1].removeprefix("+")
    exec(added, {})
    assert block(GUIDE, "+    runs_in").code.splitlines()[-1] == '+    runs_in = "asyncio"'


# -- guide: tests and traces


@pytest.mark.parametrize(("failures", "status"), [(2, "SUCCESS"), (3, "FAILED")])
async def test_a_failing_service_is_replaced_in_a_test(
    failures: int, status: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    charges = ModuleType("charges")
    monkeypatch.setitem(sys.modules, "charges", charges)
    execute(block(GUIDE, "class Bank:"), vars(charges))
    names = execute(block(GUIDE, "class FailingBank:"))
    await names["test_the_bank_is_asked_three_times"](monkeypatch, autojump_clock, failures, status)
    await names["test_the_error_of_the_bank_is_that_of_the_node"](monkeypatch)


async def test_the_explored_graph_fails_as_printed_and_its_correction_passes(
    autojump_clock: MockClock,
) -> None:
    charge = "        charges.append("
    right = EXPLORE.code.replace(charge, f'        if "order 1" not in charges:\n    {charge}')

    async def run(code: str) -> None:
        names: dict[str, Any] = {"__name__": "test_shop"}
        exec(compile(code, "test_shop.py", "exec", dont_inherit=True), names)
        await names["test_a_crash_charges_no_card_twice"](autojump_clock)

    with pytest.raises(CheckFailed) as caught:
        await run(EXPLORE.code)
    assert f"CheckFailed: {caught.value}\n" == block(GUIDE, "CheckFailed: ").code
    await run(right)


def test_the_provider_of_tracers_gets_one_trace_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(block(GUIDE, "set_tracer_provider").code + GREET.code, "utf-8")
    end = ended("run", "hello.py", "-i", "name=Ada", cwd=tmp_path, code=0)
    for name in ("trigger greeting", "execute Greet"):
        assert f'"name": "{name}"' in end.err  # where the file was loaded, what it prints is no result
    assert len(set(re.findall(r'"trace_id": "(\w+)"', end.err))) == 1


async def test_the_test_that_the_page_on_tests_shows_passes(autojump_clock: MockClock) -> None:
    await execute(block(PROOF, "class Greet("))["test_a_claimed_state_is_executed_and_reported"](
        autojump_clock
    )
