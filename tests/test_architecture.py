"""Which package may import which. The imports are read from the source; nothing is run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import exotrio
from tests.mutations import read_table
from tests.support.facts import named_tests

ROOT = Path(exotrio.__file__).parent
MODULES = sorted(
    ".".join(("exotrio", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
)

# A package, and the packages it may import from; each may import those of ``USED_BY_ALL``.
USED_BY_ALL = ("errors", "_util", "_shared", "_version")
RULED = ("manager.rules", "manager.store", "manager.engine", "manager.queries", "manager.security")
SERVING = ("_fields", "graph", "_wire", "_httpd", *RULED, "manager.database", "manager.service")
PACKAGES: dict[str, tuple[str, ...]] = {
    "errors": (),
    "_util": (),
    "_shared": (),
    "_children": (),
    "_fields": (),
    "graph": ("_fields",),
    "_wire": ("graph",),
    "_nodes": ("_fields", "graph", "_wire"),
    "_http": ("_wire",),
    "client": ("_fields", "graph", "_wire", "_http"),
    "_link": ("graph", "_wire", "_nodes", "_http"),
    "_execution": ("_children", "_fields", "graph", "_wire", "_nodes", "_http", "_link"),
    "_runtime": ("graph", "_wire", "_nodes", "_http", "_link", "_execution"),
    "monitoring": ("_nodes", "_runtime"),
    "testing": (
        *("_fields", "graph", "_wire", "_nodes", "_http", "_link", "_execution", "_runtime", "client"),
        "manager",
    ),
    "_httpd": (),
    "manager.rules": ("_fields", "graph", "_wire"),
    "manager.store": ("graph", "_wire", "manager.rules"),
    "manager.engine": ("_fields", "graph", "_wire", "manager.rules", "manager.store"),
    "manager.queries": ("_fields", "graph", "_wire", "manager.rules", "manager.store", "manager.engine"),
    "manager.security": ("graph", "_wire", "_httpd", "manager.rules", "manager.store", "manager.engine"),
    "manager.database": ("_httpd", "manager.store"),
    "manager.background": ("_wire", *RULED),
    "manager.service": (*RULED, "manager.background", "manager.database"),
    "manager.web": SERVING,
    "manager.api": (*SERVING, "manager.background", "manager.web"),
    "manager": ("graph", "_wire", "_httpd", "manager"),
    "cli": (
        *("exotrio", "graph", "client", "monitoring", "manager"),
        *("_children", "_execution", "_fields", "_http", "_httpd", "_nodes", "_runtime", "_wire"),
        "testing",
    ),
}
COMMANDS_ON_DATABASES = (
    *(
        "cli.commands.migrate",
        "cli.commands.rotate_secrets",
        "cli.commands.ui",
        "cli.dev",
        "cli.rehearsal",
        "cli.runs.local",
    ),
)
PRIVATE_IN_CLI = {
    "_wire": ("cli",),
    "_http.endpoint": ("cli",),
    # It asks what answers as every client does.
    "_http.client": ("cli.doctor",),
    "_http.discovery": ("cli.doctor",),
    "_httpd": ("cli.health_server",),
    "_children": ("cli.file_process", "cli.parent_command"),
    # Signals drain a runtime or a command in the same way.
    "_runtime.entry": ("cli.commands.worker", "cli.parent_command", "cli.program"),
    "_runtime.outbox_store": ("cli.doctor",),
    # Log lines and progress show the state in whose execution they were written.
    "_runtime.held_claim": ("cli.terminal.json_logs",),
    "_execution": ("cli.terminal",),
    "_nodes": ("cli.file_process_main", "cli.graphs", "cli.load", "cli.runs.local"),
    # Rehearsals compare runs, and versions of the code, as ``explore`` does.
    "testing": ("cli.rehearsal",),
    # The rules of the state manager are applied without one.
    "manager.rules": ("cli.doctor", "cli.graphs"),
    "graph.breaking": ("cli.rehearsal",),
    "graph.placeholders": ("cli.graphs",),
    # Values are checked before the first run starts, at every kind of state manager.
    "graph.values": ("cli.runs",),
    "_fields.declared": ("cli.runs",),
    "manager": COMMANDS_ON_DATABASES,
    # The Tab key reads names from a file: a state manager is not started, nor asked.
    "manager.store.sqlite.names": ("cli.completion",),
}
"""The private modules that the command line uses besides public names, and where."""
PUBLIC = {
    "exotrio",
    *(f"exotrio.{name}" for name in ["cli", "client", "errors", "graph", "manager", "monitoring", "testing"]),
}
DRIVERS = {
    # The settings of ``doctor`` show the version of SQLite.
    "sqlite3": ("manager.store.sqlite", "_runtime.outbox_store", "cli.doctor.settings", "client._backup"),
    "psycopg": ("manager.store.postgres",),
    "h11": ("_httpd", "_http.network"),
}
"""A library, and the only modules that may import it."""
SQL = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|CREATE) [a-zA-Z_*(]")
SQL_PACKAGES = (
    "manager.store",
    "manager.engine",
    "manager.queries",
    "manager.security",
    "_runtime.outbox_store",
)


def package_of(module: str) -> str:
    """Return the package of a module: the longest name in ``PACKAGES`` that fits."""
    name = module.removeprefix("exotrio").removeprefix(".")
    fits = [package for package in PACKAGES if name == package or name.startswith(f"{package}.")]
    return max(fits, key=len, default=name or "exotrio")


def text_of(module: str) -> str:
    path = ROOT.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if (path / "__init__.py").exists() else path.with_suffix(".py")
    return path.read_text("utf-8")


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(text_of(module), module)


@cache
def imports(module: str, *, late: bool) -> frozenset[str]:
    """Return what a module imports, dotted and absolute, with what only type checkers see.

    Args:
        module: Its name.
        late: Whether imports within functions count too.
    """
    names: set[str] = set()
    waiting: list[ast.AST] = [tree_of(module)]
    while waiting:
        node = waiting.pop()
        if not late and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in MODULES else node.module)
        # No expression holds an import, and most of a tree is expressions.
        waiting.extend(each for each in ast.iter_child_nodes(node) if not isinstance(each, ast.expr))
    return frozenset(names)


INSIDE = [module for module in MODULES if module not in {"exotrio", "exotrio.__main__", "exotrio._version"}]


def test_a_package_imports_only_what_the_table_allows() -> None:
    problems = []
    for module in INSIDE:
        package = package_of(module)
        allowed = {package, *USED_BY_ALL, *PACKAGES[package]}
        ours = {name for name in imports(module, late=True) if name.split(".")[0] == "exotrio"}
        above = {
            name
            for name in ours
            if not any(
                package_of(name) == each or package_of(name).startswith(f"{each}.") for each in allowed
            )
        }
        if above:
            problems.append(f"{module} imports {sorted(above)}; {package} may import from {sorted(allowed)}")
    assert not problems, "\n".join(problems)


def test_an_import_within_a_function_has_its_reason_in_a_comment() -> None:
    problems = []
    for module in INSIDE:
        lines = text_of(module).splitlines()
        nodes = list(ast.walk(tree_of(module)))
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        for node in (each for function in functions for each in ast.walk(function)):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "exotrio":
                first = node.lineno - 1
                while lines[first - 1].strip().startswith(("#", "from ", "import ")):
                    first -= 1
                if not any("#" in line for line in lines[first : node.lineno]):
                    problems.append(f"{module}, line {node.lineno}")
    assert not problems, "\n".join(problems)


def test_no_module_imports_itself_through_others() -> None:
    # What only type checkers see counts too: who reads a module has to read what its types are.
    edges = {module: (imports(module, late=True) & set(MODULES)) - {"exotrio"} for module in INSIDE}
    while leaves := [module for module, targets in edges.items() if not targets & edges.keys()]:
        for leaf in leaves:
            del edges[leaf]
    assert not edges, f"an import circle among {sorted(edges)}"


def is_in(module: str, places: Iterable[str]) -> bool:
    return any(module == f"exotrio.{place}" or module.startswith(f"exotrio.{place}.") for place in places)


def test_each_driver_is_imported_only_where_the_table_says() -> None:
    problems = [
        f"{module} imports {library}"
        for module in MODULES
        for library in {name.split(".")[0] for name in imports(module, late=True)} & DRIVERS.keys()
        if not is_in(module, DRIVERS[library])
    ]
    assert not problems, "\n".join(problems)


def test_the_command_line_uses_public_names_and_a_few_private_modules() -> None:
    problems = []
    for module in (each for each in INSIDE if package_of(each) == "cli"):
        for name in imports(module, late=True) - PUBLIC:
            path = name.removeprefix("exotrio.")
            if path == name or path.startswith(USED_BY_ALL) or is_in(name, ["cli"]):
                continue
            listed = max((each for each in PRIVATE_IN_CLI if is_in(name, [each])), key=len, default="")
            if not is_in(module, PRIVATE_IN_CLI.get(listed, ())):
                problems.append(f"{module} imports {name}")
    assert not problems, "\n".join(problems)


PURE_OF_TIME_AND_HTTP = ("manager.rules", "manager.engine", "manager.queries")
CLOCKS_AND_HTTP = {"time", "datetime", "trio", "starlette", "httpx", "h11"}


def test_use_cases_and_queries_know_no_http_and_read_no_clock() -> None:
    """They refuse with the exceptions of ``rules.errors``, and the time is ``now_ms``, or an argument."""
    problems = []
    for module in (each for each in MODULES if is_in(each, PURE_OF_TIME_AND_HTTP)):
        libraries = {name.split(".")[0] for name in imports(module, late=True)}
        problems += [f"{module} imports {library}" for library in libraries & CLOCKS_AND_HTTP]
        problems += [
            f"{module} reads {name}" for name in re.findall("wall_clock|monotonic_clock", text_of(module))
        ]
    assert not problems, "\n".join(problems)


def test_the_effects_of_a_use_case_that_is_called_by_another_are_not_lost() -> None:
    functions = [
        (module, node)
        for module in MODULES
        if is_in(module, ["manager.engine"])
        for node in tree_of(module).body
        if isinstance(node, ast.FunctionDef)
    ]
    with_effects = {node.name for _, node in functions if "WithEffects[" in ast.unparse(node.returns or node)}
    problems = [
        f"{module}, line {node.lineno}: {node.value.func.id}"
        for module, function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        if isinstance(node.value.func, ast.Name) and node.value.func.id in with_effects
    ]
    assert len(with_effects) > 10
    assert not problems, "\n".join(problems)


def test_sql_is_written_only_in_some_packages() -> None:
    problems = [
        f"{module} has SQL in line {node.lineno}"
        for module in MODULES
        if not is_in(module, SQL_PACKAGES)
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.match(node.value)
    ]
    assert not problems, "\n".join(problems)


def test_no_statement_numbers_its_parameters() -> None:
    """With them, sqlite3 of Python 3.12.0 to 3.12.3 warns at each execution, and no newer one does."""
    problems = [
        f"{module} numbers a parameter in line {node.lineno}: {node.value}"
        for module in MODULES
        if is_in(module, SQL_PACKAGES) and module != "exotrio.manager.store.sqlite.dialect"
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"\?\d", node.value)
    ]
    assert not problems, "\n".join(problems)


SHIELDED_ELSEWHERE = {
    "_runtime.runtime": "the shutdown bounds every step within it",
    "_runtime.heartbeat": "its end moves the deadline",
    "cli.file_process": "the order to stop moved the deadline",
}


def test_every_shield_has_a_deadline() -> None:
    for module in MODULES:
        for node in ast.walk(tree_of(module)) if "shield=" in text_of(module) else ():
            if isinstance(node, ast.Call) and any(each.arg == "shield" for each in node.keywords):
                bounded = ast.unparse(node.func).endswith(("move_on_after", "fail_after"))
                bounded = bounded or any(each.arg == "deadline" for each in node.keywords)
                assert bounded or is_in(module, SHIELDED_ELSEWHERE), f"{module}, line {node.lineno}"


def test_the_tools_of_util_know_nothing_of_exotrio() -> None:
    nouns = r"(state manager|runtime|node|graph|state|claim|lease|outcome|worker)s?|exosphere\w*"
    imports = r"from exotrio\.(?!_util\b|errors\b|_version\b)"
    problems = [
        f"{module}, line {number}: {line.strip()}"
        for module in INSIDE
        if package_of(module) == "_util"
        for number, line in enumerate(text_of(module).splitlines(), 1)
        if re.search(rf"\b({nouns})\b|{imports}", line, re.IGNORECASE)
    ]
    assert not problems, "\n".join(problems)


def test_only_settings_reads_the_environment() -> None:
    for module in INSIDE:
        # The second one reads libpq's variables, the third one restores what a node changed.
        its = (
            "exotrio._shared.settings",
            "exotrio._util.database_url",
            "exotrio._execution.process_worker",
        )
        if module in its or package_of(module) == "cli":
            continue
        for node in ast.walk(tree_of(module)):
            named = isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "environb"}
            assert not named, f"{module} reads the environment in line {getattr(node, 'lineno', 0)}"


def test_no_test_file_imports_from_another() -> None:
    pattern = re.compile(r"^\s*(?:from|import) tests\.(?:\w+\.)*(?:test_\w+|conftest)\b", re.MULTILINE)
    files = Path(__file__).parent.rglob("*.py")
    assert not [path for path in files if pattern.search(path.read_text("utf-8"))], "what both use is support"


def test_every_promise_in_the_table_of_mutations_has_tests_that_exist() -> None:
    for mutation in read_table():
        assert mutation.tests, f"tests/mutations/table.txt names no test for: {mutation.promise}"
        for name in mutation.tests:
            module, _, test = name.partition("::")
            assert test in named_tests(Path(__file__).parent / f"{module}.py"), f"{name}: {mutation.promise}"


def test_every_test_that_the_facts_of_the_protocol_name_exists() -> None:
    folder = Path(__file__).parent / "contract"
    for name in re.findall(r"`([\w/]+::test_\w+)`", (folder / "FACTS.md").read_text("utf-8")):
        module, _, test = name.partition("::")
        files = (folder / f"{module}.py", folder.parent / f"{module}.py")
        assert any(file.exists() and test in named_tests(file) for file in files), f"FACTS.md: {name}"


def test_every_safeguard_in_the_table_of_mutations_occurs_in_the_source() -> None:
    for mutation in read_table():
        for change in mutation.changes:
            change.apply(ROOT)
