"""Loads a user's file or module, and finds its Runtime and its Graphs."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from pydantic import ValidationError

import exotrio
from exotrio import Runtime
from exotrio._http.endpoint import ambient_endpoint
from exotrio._nodes.importing import NotImportable, module_from_file
from exotrio._util.exceptions import first_leaf
from exotrio._util.words import closest, plural, readable_errors, suggestion
from exotrio.cli.exit_codes import ModuleInvalid
from exotrio.cli.program import python_line
from exotrio.errors import ConfigurationError, ExotrioError, GraphInvalid, LifecycleError
from exotrio.graph import Graph

T = TypeVar("T")

_FOREIGN_PREFIXES = (
    os.path.join(Path(exotrio.__file__).parent, ""),
    *(os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    "<frozen ",
    "<string>",  # what dataclasses generate
)
"""Prefixes of the paths of files that the user did not write."""
_PACKAGE_FOLDERS = frozenset({"site-packages", "dist-packages"})
"""Folders of installed packages; an environment may use those of other environments too."""
_FIX = "give the path of a Python file, or the name of a module"


class TargetMissing(ModuleInvalid):
    """There is no such file or module."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A user's module."""

    target: str
    """The argument it was loaded from, without an attribute."""
    attribute: str | None
    """The part after the colon, if any."""
    module: ModuleType

    def runtime(self) -> Runtime:
        """Return the module's Runtime: the one named by the attribute, or the only one."""
        runtimes, name = self._variables(Runtime), self.attribute
        if name is None:
            return _only(
                self.target,
                runtimes,
                "Runtime",
                name_one=f"name one: {self.target}:{next(iter(runtimes), '')}",
                write_one="write: runtime = Runtime(namespace=..., name=..., nodes=[...])",
            )
        is_graph = name in self._variables(Graph)
        where = f"looked up because of '{self.target}:{name}'"
        where += "; that is a Graph, which is chosen with --graph" if is_graph else ""
        return _named(self.target, name, runtimes, runtimes, "Runtime", where)

    def graph(self, name: str | None, *, option: str = "--graph") -> Graph:
        """Return the module's Graph with this name (its own, or its variable's), or the only one.

        ``option`` is the option that names one, for messages.
        """
        variables = self._variables(Graph)
        by_own_name = {graph.name: graph for graph in variables.values()}
        return choose_graph(self.target, by_own_name, name, option, variables)

    def all_of(self, kind: type[T]) -> list[T]:
        """Return every object of a type at the module's top level."""
        return list(self._variables(kind).values())

    def _variables(self, kind: type[T]) -> dict[str, T]:
        """Return the module's variables of a type; the first name of each object."""
        by_id: dict[int, tuple[str, T]] = {}
        for name, value in vars(self.module).items():
            if isinstance(value, kind):
                by_id.setdefault(id(value), (name, value))
        return dict(by_id.values())


def choose_graph(
    target: str,
    graphs: Mapping[str, T],
    name: str | None,
    option: str = "--graph",
    variables: Mapping[str, T] | None = None,
) -> T:
    """Return the graph with a name (or that of a variable), or the only one; else raise ModuleInvalid."""
    if name is None:
        return _only(
            target,
            graphs,
            "Graph",
            name_one=f"name one with {option} NAME",
            write_one="write: graph = Graph('my-graph', namespace=...), then graph.add(...)",
        )
    return _named(target, name, {**(variables or {}), **graphs}, graphs, "Graph", f"named with {option}")


def _only(target: str, objects: Mapping[str, T], kind: str, *, name_one: str, write_one: str) -> T:
    if len(objects) != 1:
        number = plural(len(objects), kind) if objects else f"no {kind}"
        raise ModuleInvalid(
            f"{target} has {number} at its top level",
            where=", ".join(objects),
            fix=name_one if objects else write_one,
        )
    return next(iter(objects.values()))


def _named(
    target: str, name: str, objects: Mapping[str, T], shown: Iterable[str], kind: str, where: str
) -> T:
    if name not in objects:
        what = f"{target} has no {kind} {name!r}{suggestion(name, objects)}"
        raise ModuleInvalid(what, where=where, fix=f"it has: {', '.join(shown) or 'none'}")
    return objects[name]


def load(target: str) -> Loaded:
    """Import ``FILE.py`` or ``package.module``, each with an optional ``:ATTRIBUTE``.

    The folder of a file, or the working directory, is put first on the import path, as Python does
    for scripts. A Runtime that the module builds needs no state manager yet.

    Raises:
        ModuleInvalid: it does not exist, fails to load, or starts its Runtime while it is loaded.
        ConfigurationError: it builds a Runtime or a node class that cannot be used.
        GraphInvalid: it builds an invalid graph.
    """
    path, attribute = split_target(target)
    if not path:
        raise TargetMissing(
            "no file or module is named", where=f"in the argument {target!r}" if target else "", fix=_FIX
        )
    try:
        # Text that the module prints while it is loaded is not a result of the command.
        with ambient_endpoint(None), redirect_stdout(sys.stderr):
            module = _import_file(Path(path)) if is_file(path) else _import_module(path)
    except ModuleInvalid:
        raise
    except (Exception, SystemExit) as error:
        raise _load_error(error, path) from error
    return Loaded(path, attribute, module)


def load_in_child(target: str) -> Loaded:
    """Import as ``load`` does, in a process that does nothing else."""
    # What was imported before stays until the process ends. If it is never searched for garbage, the start
    # and the end take 60 ms less of 370 ms, and each full collection in between 5 ms instead of 20 ms.
    gc.freeze()
    return load(target)


def _load_error(error: BaseException, path: str) -> ExotrioError:
    """Return the error to raise for an exception that the module raised while it was loaded."""
    # A module that runs an event loop raises exception groups.
    leaf = first_leaf(error)
    line = users_line(leaf) or users_line(error)
    location = f"in {line[0]}, line {line[1]}" if line else ""
    if isinstance(leaf, LifecycleError):
        return ModuleInvalid(
            f"{path} starts its Runtime while it is loaded",
            where=location,
            fix="put the start under: if __name__ == '__main__':",
        )
    if isinstance(leaf, ConfigurationError | GraphInvalid):
        kind = GraphInvalid if isinstance(leaf, GraphInvalid) else ConfigurationError
        return kind(leaf.what, leaf.problems, where=leaf.where or location, fix=leaf.fix)
    if isinstance(leaf, ExotrioError):
        return leaf
    if isinstance(leaf, ValidationError):
        return ModuleInvalid(
            f"{path} declares a {leaf.title} that breaks rules", readable_errors(leaf), where=location
        )
    lines = str(leaf).strip().splitlines()
    command = python_line([path] if is_file(path) else ["-m", path])
    return ModuleInvalid(
        f"{path} failed while it was loaded: {type(leaf).__name__}" + (f": {lines[0]}" if lines else ""),
        where=location,
        fix=f"see the whole traceback with: {command}",
    )


def split_target(target: str) -> tuple[str, str | None]:
    """Return the file or module, and the attribute, if there is one."""
    head, colon, attribute = target.rpartition(":")
    if not colon or not attribute.isidentifier():
        return target, None
    return head, attribute


def is_file(path: str) -> bool:
    """Whether a target is the path of a file, and not the name of a module."""
    return path.endswith(".py") or os.sep in path or not path.strip(".")


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        close = closest(path.stem, [file.stem for file in path.parent.glob("*.py")])
        instead = f"; did you mean {path.with_name(close + '.py')}?" if close else ""
        raise TargetMissing(
            f"{path} is a folder" if path.is_dir() else f"there is no file {path}{instead}",
            where=f"looked up in {path.parent.absolute()}",
            fix=_FIX,
        )
    sys.path.insert(0, str(path.resolve().parent))
    # Under another name than the file's, since the file may import a package with that name.
    try:
        return module_from_file(f"exotrio_app_{path.stem}", str(path))
    except NotImportable as error:
        raise _not_python(path) from error


def _import_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
        raise _no_module(name) from error


def _not_python(path: str | Path) -> ModuleInvalid:
    return ModuleInvalid(f"{path} is not a Python file", fix="give a file whose name ends in .py")


def _no_module(name: str) -> ModuleInvalid:
    if os.path.isfile(name):
        return _not_python(name)
    if ":" in name:
        fix = "write the name of a Runtime's variable after the colon, as in app.py:runtime"
    else:
        file = Path(*name.split(".")).with_suffix(".py")
        fix = f"for a file give its path, such as {os.curdir}{os.sep}{file}"
    return TargetMissing(f"there is no module {name!r}", where=f"looked up from {Path.cwd()}", fix=fix)


def users_line(error: BaseException) -> tuple[str, int | None] | None:
    """Return file and line of the innermost frame in the user's code, if there is one."""
    if isinstance(error, SyntaxError) and error.filename:
        return error.filename, error.lineno
    frames = _users_frames(error)
    return (frames[-1].filename, frames[-1].lineno) if frames else None


def users_traceback(error: BaseException) -> str:
    """Return the part of an error's traceback that is in the user's code; empty if no frame is."""
    leaf = first_leaf(error.__cause__ or error)
    lines = traceback.format_list(_users_frames(leaf))
    if isinstance(leaf, SyntaxError):
        # The line with the error is not in a frame. Without the message, which the error has.
        lines += list(traceback.TracebackException.from_exception(leaf).format_exception_only())[:-1]
    return "".join(lines).rstrip("\n")


def users_files(error: BaseException | None = None) -> list[str]:
    """Return the files that the user wrote, of all loaded modules.

    Pass an error of ``load`` to include the files in its traceback: Python does not keep a module that failed
    to load.
    """
    names = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    if error is not None:
        leaf = first_leaf(error.__cause__ or error)
        names += [frame.filename for frame in _users_frames(leaf)]
        names += [leaf.filename] if isinstance(leaf, SyntaxError) else []
    files = {os.path.abspath(name) for name in names if isinstance(name, str) and _is_users(name)}
    return sorted(file for file in files if os.path.exists(file))  # not "<string>"


def _users_frames(error: BaseException) -> list[traceback.FrameSummary]:
    return [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]


def _is_users(file: str) -> bool:
    return not file.startswith(_FOREIGN_PREFIXES) and not _PACKAGE_FOLDERS & {*Path(file).parts}
