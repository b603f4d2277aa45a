"""Checks on node classes, and how they are declared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from exotrio import BaseNode, ConfigurationError, LifecycleError, Runtime
from exotrio._http.endpoint import Endpoint, ambient_endpoint, resolve_endpoint
from exotrio._nodes.checks import declare, node_problems
from tests.support.doubles import V0Server, running


class Plain(BaseNode):
    async def execute(self) -> None: ...


class Full(BaseNode):
    class Inputs(BaseModel):
        name: str
        greeting: str = "Hello"

    class Outputs(BaseModel):
        text: str

    class Secrets(BaseModel):
        api_key: str

    def execute(self) -> Any: ...


def test_a_node_without_models_inherits_empty_ones() -> None:
    assert node_problems([Plain]) == []
    assert declare(Plain).secrets == []
    assert declare(Plain).inputs_schema["properties"] == {}


def test_a_node_is_declared_by_class_name_json_schemas_and_secret_names() -> None:
    assert node_problems([Full]) == []
    declaration = declare(Full)
    assert declaration.name == "Full"
    assert declaration.inputs_schema == Full.Inputs.model_json_schema()
    assert declaration.outputs_schema == Full.Outputs.model_json_schema()
    assert declaration.secrets == ["api_key"]


def _bad_nodes() -> list[tuple[Any, str]]:
    class NoExecute(BaseNode): ...

    class Numbers(BaseNode):
        class Inputs(BaseModel):
            count: complex
            maybe: str | int = 1

        class Secrets(BaseModel):
            pin: int

        async def execute(self) -> None: ...

    class NotAModel(BaseNode):
        Outputs = dict  # type: ignore[assignment]

        async def execute(self) -> None: ...

    class TakesInputs(BaseNode):
        async def execute(self, inputs: Any) -> None: ...  # type: ignore[override]

    class Yields(BaseNode):
        async def execute(self) -> Any:
            yield

    class NeedsArguments(BaseNode):
        def __init__(self, connection: str) -> None: ...

        async def execute(self) -> None: ...

    class Static(BaseNode):
        @staticmethod
        async def execute() -> None: ...

    class NotCallable(BaseNode):
        execute = "now"  # type: ignore[assignment]

    async def coroutine(self: BaseNode) -> None: ...

    def plain(self: BaseNode) -> None: ...

    def place(runs_in: Any, execute: Any) -> Any:
        return type("Placed", (BaseNode,), {"runs_in": runs_in, "execute": execute})

    return [
        (place("curio", plain), 'Placed.runs_in is \'curio\': it must be one of "trio", "thread"'),
        (place("trio", plain), 'Placed.runs_in is "trio", but its execute is a plain def'),
        (place("asyncio", plain), 'Placed.runs_in is "asyncio", but its execute is a plain def'),
        (place("thread", coroutine), 'Placed.runs_in is "thread", but its execute is an async def'),
        ("text", r"nodes\[0\] is 'text', not a class"),
        (Plain(), "pass the class itself, not an instance"),
        (int, "int does not inherit from exotrio.BaseNode"),
        (NoExecute, "NoExecute has no execute method"),
        (Numbers, "Numbers.Inputs.count: complex cannot be restored from a text"),
        (Numbers, r"Numbers.Inputs.maybe: str \| int cannot be restored"),
        (Numbers, "Numbers.Secrets.pin: must be of type str, not int: secrets are text"),
        (NotAModel, "NotAModel.Outputs must be a class that inherits from pydantic.BaseModel"),
        (TakesInputs, "TakesInputs.execute must take no argument but self"),
        (Yields, "Yields.execute is a generator"),
        (NeedsArguments, "NeedsArguments cannot be created without arguments"),
        (Static, "Static.execute must be a plain method"),
        (NotCallable, "NotCallable.execute is 'now', not a method"),
    ]


@pytest.mark.parametrize(("node", "problem"), _bad_nodes())
def test_an_unusable_node_class_is_named_with_its_problem(node: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        Runtime("ns", "rt", [node], transport=V0Server())


def test_two_classes_of_one_name_are_a_problem() -> None:
    other = type("Plain", (Plain,), {})
    assert any("2 node classes are named Plain" in problem for problem in node_problems([Plain, other]))


def test_every_problem_of_a_runtime_is_named_at_once(unconfigured: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Runtime(
            " ",
            "a/b",
            [int, Plain()],  # type: ignore[list-item]
            "ftp://127.0.0.1",
            "a key\n",
            batch_size=0,
            workers=True,
            poll_interval=0,
            shutdown_grace=float("nan"),
            state_manage_version="v7",
            link="carrier pigeon",  # type: ignore[arg-type]
        )
    text = "\n".join(caught.value.problems)
    for part in (
        "namespace is blank",
        "name 'a/b'",
        "int does not inherit",
        "not an instance",
        "batch_size is 0",
        "workers is True",
        "poll_interval is 0",
        "shutdown_grace is nan",
        "'v7'",
        "'carrier pigeon'",
        "must start with http:// or https://, not ftp:// (argument state_manager_uri)",
        "the API key (argument key) cannot be sent in a header",
    ):
        assert part in text
    assert len(caught.value.problems) == 12


@pytest.mark.parametrize("nodes", [[], None, Plain, "Plain"])
def test_nodes_must_be_a_list_with_something_in_it(nodes: Any) -> None:
    with pytest.raises(ConfigurationError, match="nodes"):
        Runtime("ns", "rt", nodes, transport=V0Server())


def test_the_stock_spelling_of_the_version_is_accepted() -> None:
    Runtime("ns", "rt", [Plain], "http://127.0.0.1:1", "key", state_manage_version="v0")
    with pytest.raises(ConfigurationError, match="'v7'"):
        Runtime("ns", "rt", [Plain], "http://127.0.0.1:1", "key", state_manage_version="v7")


@pytest.mark.parametrize(
    ("position", "wrong", "named"),
    [
        (0, "", "namespace"),
        (1, "", "name "),
        (2, [], "nodes"),
        (3, "ftp://x", "argument state_manager_uri"),
        (4, "a\nkey", "argument key"),
        (5, 0, "batch_size"),
        (6, 0, "workers"),
        (7, "v7", "state_manager_version"),
        (8, 0, "poll_interval"),
    ],
)
def test_arguments_have_the_positions_that_they_have_in_the_stock_sdk(
    position: int, wrong: Any, named: str
) -> None:
    arguments: list[Any] = ["ns", "rt", [Plain], "http://127.0.0.1:1", "key", 1, 1, "v0", 2]
    Runtime(*arguments)
    arguments[position] = wrong
    with pytest.raises(ConfigurationError) as caught:
        Runtime(*arguments)
    (problem,) = caught.value.problems
    assert named in problem


def test_a_state_manager_is_read_from_the_settings_at_the_start(
    unconfigured: Path,
) -> None:
    built = Runtime("ns", "rt", [Plain])
    keyed = Runtime("ns", "rt", [Plain], key="k")
    with pytest.raises(ConfigurationError) as caught:
        built.start()
    assert ["no state manager is named" in caught.value.problems[0], "no API key" in caught.value.problems[1]]
    (unconfigured / ".env").write_text("EXOSPHERE_STATE_MANAGER_URI=ftp://x\nEXOSPHERE_API_KEY=k\n")
    for runtime in (built, keyed):
        with pytest.raises(ConfigurationError, match="not ftp:// \\(variable EXOSPHERE_STATE_MANAGER_URI"):
            runtime.start()


async def test_a_runtime_built_while_the_command_line_loads_its_file_runs_on_the_manager_supplied_then(
    autojump_clock: Any, unconfigured: Path
) -> None:
    with ambient_endpoint(None):
        built = Runtime("ns", "rt", [Plain])
        with pytest.raises(LifecycleError, match="while its file is loaded"):
            await built.run()
    with pytest.raises(ConfigurationError, match="no state manager is named"):
        await built.run()
    server = V0Server(Plain=1)
    with ambient_endpoint(Endpoint("http://embedded", None, server)):
        assert resolve_endpoint(None, None) == (Endpoint("http://embedded", None, server), [])
        assert resolve_endpoint("http://127.0.0.1:9", "k")[0] == Endpoint("http://127.0.0.1:9", "k")
        async with running(built):
            await server.until(EXECUTED=1)
