"""The arrows of the design: which module may import which. Read from the source, nothing is run."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import exotrio

ROOT = Path(exotrio.__file__).parent
MODULES = sorted(
    ".".join(("exotrio", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
)

# From the bottom up: a module imports from its own layer and from those before it.
LAYERS: dict[str, set[str]] = {
    "contracts": {
        *(
            "_backoff",
            "_cron",
            "_duration",
            "_error_text",
            "_errors",
            "_events",
            "_field_text",
            "_fields",
            "_graph",
            "_json",
            "_lifecycle",
            "_log_context",
            "_node",
            "_outcome",
            "_progress",
            "_redaction",
            "_error_message",
        ),
        *("_run_status", "_settings", "_signals", "_spans", "_terminal_text", "_version"),
        *("_wire", "_wire_checkup"),
        *("_wire_manage", "_wire_native", "_wire_overview", "_wire_v0", "_wire_workers"),
    },
    "links": {
        *("_client", "_client_backup", "_client_calls", "_client_graphs", "_client_look", "_client_runs"),
        *("_client_workers", "_discovery", "_endpoint", "_http_answer", "_http_client", "_link"),
        *("_http_body", "_link_native", "_lookups", "_link_v0", "_new_file", "_trio_thread", "_upsert"),
    },
    "loops": {
        *("_connect", "_execution", "_heartbeat", "_ledger", "_options", "_outage", "_poller", "_reporter"),
        *("_beside", "_daemon_executor", "_drain_log", "_lag", "_left_behind", "_outbox", "_outbox_file"),
        *("_result", "_side_loop", "_start", "_stop", "_tasks", "_threads", "_vitals", "_worker"),
    },
    "runtime": {"_engine", "_hosting", "_runtime"},
    "helpers": {"_health", "_metrics", "monitoring", "testing"},
}
MANAGER_MAY_USE = {
    *("_errors", "_backoff", "_cron", "_settings", "_spans", "_graph", "_redaction", "_terminal_text"),
    "_error_message",
    *("_wire", "_wire_checkup", "_wire_manage", "_wire_native", "_wire_overview", "_wire_v0"),
    "_wire_workers",
}
HEAVY = {
    "httpx",
    "starlette",
    "sqlite3",
    "cryptography",
    "click",
    "rich",
    "pydantic_settings",
    "h11",
    "prometheus_client",
    "jinja2",
    "asyncio",
}
LOADED_LATE = {"exotrio._http_body", "exotrio._outbox", "exotrio._outbox_file", "exotrio._side_loop"}
"""May load something heavy, since others import them within functions only."""
PURE = [
    *(
        "_errors",
        "_error_message",
        "_backoff",
        "_duration",
        "_field_text",
        "_fields",
        "_graph",
        "_signals",
        "_spans",
        "_outcome",
        "_lifecycle",
        "manager._template",
    ),
    *("_wire", "_wire_checkup", "_wire_native", "_wire_overview", "_wire_v0", "_wire_workers"),
]


def source(module: str) -> ast.Module:
    relative = Path(*module.split(".")[1:])
    path = ROOT / relative / "__init__.py"
    if not path.exists():
        path = (ROOT / relative).with_suffix(".py")
    return ast.parse(path.read_text("utf-8"), str(path))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(module: str, *, late: bool) -> set[str]:
    """Return what a module imports, dotted and absolute; never what only the type checker sees.

    Args:
        module: Its name.
        late: Whether imports within functions count too.
    """
    found: set[str] = set()
    waiting: list[ast.AST] = [source(module)]
    while waiting:
        node = waiting.pop()
        if is_type_checking(node) or (not late and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
        waiting.extend(ast.iter_child_nodes(node))
    return found


def ours(module: str, *, late: bool = True) -> set[str]:
    """Return the imported modules of exotrio, without the prefix."""
    return {
        name.removeprefix("exotrio.")
        for name in imports(module, late=late)
        if name.split(".")[0] == "exotrio"
    }


def part_of(module: str, package: str) -> bool:
    return module == f"exotrio.{package}" or module.startswith(f"exotrio.{package}.")


MANAGER = [module for module in MODULES if part_of(module, "manager")]
CLI = [module for module in MODULES if part_of(module, "cli")]
FLAT = [module for module in MODULES if module not in {*MANAGER, *CLI, "exotrio", "exotrio.__main__"}]


@pytest.mark.parametrize("module", MANAGER)
def test_the_manager_shares_only_contracts_with_the_rest(module: str) -> None:
    outside = {name for name in ours(module) if not part_of(f"exotrio.{name}", "manager")}
    assert outside <= MANAGER_MAY_USE


@pytest.mark.parametrize("module", [module for module in FLAT if module != "exotrio.testing"])
def test_runtime_and_client_meet_the_manager_over_http_only(module: str) -> None:
    assert not {name for name in ours(module) if name.split(".")[0] in {"manager", "cli"}}


@pytest.mark.parametrize("module", [*FLAT, *MANAGER])
def test_nobody_imports_the_package_itself(module: str) -> None:
    # `from exotrio import X` within exotrio works only by the order of the imports in __init__.
    assert "exotrio" not in ours(module)


@pytest.mark.parametrize("module", [module for module in FLAT if module not in LOADED_LATE])
def test_nothing_that_loads_with_exotrio_loads_anything_heavy(module: str) -> None:
    loaded = imports(module, late=False)
    assert not {name.split(".")[0] for name in loaded} & HEAVY
    assert not loaded & LOADED_LATE


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_know_neither_trio_nor_any_io(name: str) -> None:
    io = {"trio", "anyio", "socket", "threading", "subprocess", *HEAVY}
    assert not {each.split(".")[0] for each in imports(f"exotrio.{name}", late=True)} & io


def test_no_module_imports_itself_through_others() -> None:
    edges = {module: {f"exotrio.{name}" for name in ours(module)} & set(MODULES) for module in MODULES}
    edges = {
        module: {target for target in targets if target != "exotrio"} for module, targets in edges.items()
    }
    while leaves := [module for module, targets in edges.items() if not targets & edges.keys()]:
        for leaf in leaves:
            del edges[leaf]
    assert not edges, f"an import cycle among {sorted(edges)}"


def test_every_module_has_its_layer() -> None:
    placed = set().union(*LAYERS.values())
    assert not {module.removeprefix("exotrio.") for module in FLAT} - placed, "name its layer in LAYERS"


def test_no_module_imports_from_a_layer_above_its_own() -> None:
    above = set().union(*LAYERS.values())
    for layer, names in LAYERS.items():
        above = above - names
        for name in names & {module.removeprefix("exotrio.") for module in FLAT}:
            assert not ours(f"exotrio.{name}") & above, f"{name} of {layer} imports from above"


def test_each_command_line_module_is_loaded_by_the_command_that_needs_it() -> None:
    heavy = {name.split(".")[0] for name in imports("exotrio.cli", late=False)} & {
        "rich",
        "httpx",
        "starlette",
    }
    assert not heavy
    assert not {name for name in ours("exotrio.cli", late=False) if name.split(".")[0] == "manager"}


def test_only_settings_reads_the_environment() -> None:
    for module in [*FLAT, *MANAGER]:
        if module == "exotrio._settings":
            continue
        for node in ast.walk(source(module)):
            named = isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "environb"}
            assert not named, f"{module} reads the environment in line {getattr(node, 'lineno', 0)}"
