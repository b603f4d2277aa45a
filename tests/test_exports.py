"""What ``import exotrio`` gives, and what it must not load."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import exotrio
import exotrio.client
import exotrio.errors
import exotrio.monitoring

NAMES = """
AwaitedEvent BaseNode CheckpointNotSaved Child ChildFailed ConditionModel ConfigurationError CronTrigger
DatabaseBusy DatabaseError DatabaseTooNew ExotrioError FieldsInvalid Graph GraphInvalid GraphNodeModel
HandOver InvalidResponse KeyRefused LifecycleError LimitModel ManagerError ManagerUnavailable NoRetry
NodeLimitModel NotFound Phase PortBusy
ProblemsError PruneSignal ReQueueAfterSignal RequestRefused RetryPolicyModel RetryStrategyEnum
RunGraphModel Runtime StateManager Stopping StoreConfigModel Summary UnitesModel UnitesStrategyEnum VERSION
WaitForEvent WaitModel from_text to_text
"""
CLIENT = """
AddedKey BrokenRuns Change ChangePage
Checkup DatabaseState DeletedGraph Disagreement EventWait GraphInfo HeldClaims HorizonHolder KeptEvent
KeyInfo KeyList LimitDetail LimitHolder LimitInfo LimitKey LimitWait LogLine LostLeases
ManagerState NewRelease NewRun NodeCounts NodeLoad NodeVersion OldestState Overview PostgresState
RefusedState RegisteredNode RelatedRun ReleaseCheck
RefusedRun Repinned RepinnedRuns
ReplicationSlot RetriedState Run RunEvents RunGraph RunList RunPage RunRetry RunStatus
RunSummary RuntimeInfo RuntimeList SentEvent StateAttempt StateBranch StateCheckpoint StateDetail
StateEdge StateEvent StateHistory StateHolder
StateManager StateNode StatePage StateRetry StateStatus StateSummary StopList StopReceipt StopTotal
TableState Throughput UnstartedRun V0Runtime ValidationStatus VersionInfo WaitReason
"""
ALL: list[str] = vars(exotrio)["__all__"]  # which type checkers do not see
MONITORING = """
CheckpointStored Event Health LeaseLost Observer Polled Progress Requested Running RuntimeMetrics StateBegan
StateEnded Vitals
"""


def test_the_public_names_are_these() -> None:
    assert sorted(ALL) == sorted(NAMES.split())
    for name in ALL:
        assert getattr(exotrio, name)


def test_the_public_names_for_monitoring_are_these() -> None:
    assert sorted(exotrio.monitoring.__all__) == sorted(MONITORING.split())
    for name in exotrio.monitoring.__all__:
        assert getattr(exotrio.monitoring, name)


def test_the_public_names_of_the_client_are_these() -> None:
    assert sorted(exotrio.client.__all__) == sorted(CLIENT.split())


@pytest.mark.parametrize("call", [name for name in dir(exotrio.StateManager) if not name.startswith("_")])
def test_the_types_that_the_client_returns_have_public_names(call: str) -> None:
    returned = str(inspect.signature(getattr(exotrio.StateManager, call)).return_annotation)
    named = set(re.findall(r"[A-Z]\w+", returned)) - {"Any", "None"}
    assert named <= set(exotrio.client.__all__)


def test_dir_and_a_star_import_show_every_name_before_its_first_use() -> None:
    code = "import exotrio; names = dir(exotrio); from exotrio import *; print(*names); print(*dir())"
    for line in in_fresh_python(code).splitlines():
        assert set(ALL) <= set(line.split())


def test_the_version_is_there_under_both_names_and_in_no_star_import() -> None:
    assert in_fresh_python("import exotrio; print(exotrio.__version__)").strip() == exotrio.VERSION
    assert "__version__" not in ALL


def test_a_name_that_is_not_there_is_an_ordinary_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Runtme'"):
        exotrio.Runtme  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Runtme'"):
        exec("from exotrio import Runtme")


def test_the_type_checker_sees_the_names_where_they_come_from() -> None:
    tree = ast.parse(Path(exotrio.__file__).read_text("utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    seen: dict[str, set[str]] = {}
    for node in checked.body:
        assert isinstance(node, ast.ImportFrom)
        home = str(node.module).removeprefix("exotrio.")
        names = {alias.name for alias in node.names}
        seen.setdefault(home, set()).update(
            import_module(str(node.module)).__all__ if "*" in names else names
        )
    assert seen == {home: set(names.split()) for home, names in vars(exotrio)["_HOMES"].items()}
    assert set().union(*seen.values()) == {*ALL, "__version__"}


def test_the_tree_of_exceptions_is_drawn_as_it_is() -> None:
    drawn = [line for line in (exotrio.errors.__doc__ or "").splitlines() if "── " in line]
    parents = {}
    above: list[str] = []
    for line in drawn:
        bars, _, rest = line.partition("── ")
        name = rest.split()[0]
        depth = (len(bars) - 5) // 4
        above = [*above[:depth], name]
        parents[name] = above[depth - 1] if depth else "ExotrioError"
    real = {name: getattr(exotrio.errors, name).__bases__[0].__name__ for name in exotrio.errors.__all__}
    del real["ExotrioError"], real["ProblemsError"]  # its subclasses are drawn where they belong
    assert parents == {
        name: "ExotrioError" if base == "ProblemsError" else base for name, base in real.items()
    }


def loaded_by(statement: str) -> set[str]:
    """Return the modules a fresh interpreter loads for a statement."""
    code = f"import sys; before = set(sys.modules)\n{statement}\nprint(*set(sys.modules) - before)"
    return set(in_fresh_python(code).split())


def in_fresh_python(code: str) -> str:
    run = [sys.executable, "-c", code]
    return subprocess.run(run, capture_output=True, text=True, check=True, timeout=60).stdout


def test_importing_exotrio_loads_nothing_else() -> None:
    loaded = loaded_by("import exotrio")
    assert {name for name in loaded if name.startswith("exotrio")} == {"exotrio"}
    assert not loaded & {"trio", "pydantic", "anyio"}


def test_declaring_nodes_and_a_runtime_loads_neither_bodies_nor_the_client_nor_anything_heavy() -> None:
    loaded = loaded_by(
        "from exotrio import BaseNode, Graph, GraphNodeModel, Runtime\n"
        "import exotrio.monitoring, exotrio.testing"
    )
    heavy = {"httpx", "cryptography", "dotenv", "click", "rich", "starlette", "asyncio", "sqlite3"}
    heavy.add("prometheus_client")
    assert not loaded & heavy
    assert not {name for name in loaded if name.startswith(("exotrio.manager", "exotrio.cli"))}
    assert not loaded & {"exotrio._wire.v0", "exotrio._wire.native", "exotrio.client._state_manager"}


REQUEST = """try: await exotrio.StateManager('n', 'http://127.0.0.1:1', 'k').nodes()
    except exotrio.ManagerUnavailable: pass"""
EMBEDDED = "async with exotrio.manager.embedded(':memory:'): pass"


@pytest.mark.parametrize(
    ("main", "needs_httpx"), [(REQUEST, False), (EMBEDDED, True)], ids=["TCP", "embedded"]
)
def test_httpx_is_loaded_for_embedded_state_managers_only_and_without_its_command_line(
    main: str, needs_httpx: bool
) -> None:
    imports = "import trio, exotrio.manager"
    loaded = loaded_by(f"{imports}\nasync def main():\n    {main}\ntrio.run(main)")
    assert ("httpx" in loaded) is needs_httpx
    assert not loaded & {"httpx._main", "rich", "click"}


def test_the_worker_command_loads_neither_client_nor_state_manager() -> None:
    loaded = loaded_by(
        "import exotrio.cli.commands.worker, exotrio.cli.load\nexotrio.cli.commands.worker.served_here()"
    )
    assert not loaded & {"httpx", "sqlite3", "exotrio._wire.graphs", "exotrio.client", "exotrio.manager"}


def test_a_file_of_nodes_waits_for_pydantic_only() -> None:
    loaded = loaded_by("from exotrio import BaseNode, Graph, PruneSignal")
    assert not loaded & {"trio", "anyio", "httpx", "exotrio._wire.v0", "exotrio._runtime.runtime"}


def test_only_the_program_sets_up_logging() -> None:
    code = (
        "import logging, exotrio\n"
        "class A(exotrio.BaseNode):\n"
        "    async def execute(self): ...\n"
        "exotrio.Runtime('n', 'r', [A], 'http://127.0.0.1:1', 'k')\n"
        "exotrio.StateManager('n', 'http://127.0.0.1:1', 'k')\n"
        "print(logging.getLogger().handlers, logging.getLogger('exotrio').handlers)"
    )
    assert in_fresh_python(code) == "[] [<NullHandler (NOTSET)>]\n"
