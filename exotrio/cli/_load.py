"""Loading a user's file or module, and finding the Runtime and the Graph in it."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from exotrio._errors import ExotrioError
from exotrio._graph import Graph
from exotrio._hosting import hosted
from exotrio._runtime import Runtime
from exotrio.cli._exit import ModuleInvalid

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A user's module.

    Attributes:
        target: The argument it was loaded from, without an attribute.
        attribute: The part after the colon, if any.
    """

    target: str
    attribute: str | None
    module: ModuleType

    def runtime(self) -> Runtime:
        """Return the module's Runtime: the one named by the attribute, or the only one.

        Raises:
            ModuleInvalid: there is none, or several and none was named.
        """
        found = self._of_type(Runtime)
        if self.attribute is not None:
            if self.attribute not in found:
                raise ModuleInvalid(
                    f"{self.target} has no Runtime {self.attribute!r}" + _meant(self.attribute, found),
                    where=f"looked up because of '{self.target}:{self.attribute}'",
                    fix=f"it has: {', '.join(found) or 'none'}",
                )
            return found[self.attribute]
        if len(found) != 1:
            raise ModuleInvalid(
                f"{self.target} has {_how_many(found, 'Runtime')} at its top level",
                where=", ".join(found),
                fix=f"name one: {self.target}:{next(iter(found))}"
                if found
                else "write: runtime = Runtime(namespace=..., name=..., nodes=[...])",
            )
        return next(iter(found.values()))

    def graph(self, name: str | None) -> Graph:
        """Return the module's Graph with this name (its own, or its variable's), or the only one.

        Raises:
            ModuleInvalid: there is none like that, or several and none was named.
        """
        found = self._of_type(Graph)
        if name is None:
            if len(found) != 1:
                names = ", ".join(graph.name for graph in found.values())
                raise ModuleInvalid(
                    f"{self.target} has {_how_many(found, 'Graph')} at its top level",
                    where=names,
                    fix="name one with --graph NAME"
                    if found
                    else "write: graph = Graph('my-graph', nodes=[...])",
                )
            return next(iter(found.values()))
        by_name = {**found, **{graph.name: graph for graph in found.values()}}
        if name not in by_name:
            raise ModuleInvalid(
                f"{self.target} has no Graph {name!r}" + _meant(name, by_name),
                where="asked for with --graph",
                fix=f"it has: {', '.join(graph.name for graph in found.values()) or 'none'}",
            )
        return by_name[name]

    def _of_type(self, kind: type[T]) -> dict[str, T]:
        """Return the module's variables of a type; the first name of each object."""
        found: dict[int, tuple[str, T]] = {}
        for name, value in vars(self.module).items():
            if isinstance(value, kind):
                found.setdefault(id(value), (name, value))
        return dict(found.values())


def load(target: str) -> Loaded:
    """Import ``FILE.py`` or ``package.module``, each with an optional ``:ATTRIBUTE``.

    The folder of a file, or the working directory, is put first on the import path, as Python does
    for scripts. A Runtime that the module builds needs no state manager yet.

    Raises:
        ModuleInvalid: there is no such file or module, or it fails while it is loaded.
        ConfigurationError: it builds a Runtime or a node class that cannot be used.
    """
    path, _, attribute = _split(target)
    try:
        with hosted():
            module = _import_file(Path(path)) if _is_file(path) else _import_module(path)
    except ExotrioError:
        raise
    except (Exception, SystemExit) as error:
        raise ModuleInvalid(
            f"{path} failed while it was loaded: {type(error).__name__}: {error}",
            where=_place(error),
            fix=f"see the whole traceback with: python {path}" if _is_file(path) else "",
        ) from error
    return Loaded(path, attribute or None, module)


def _split(target: str) -> tuple[str, str, str]:
    head, colon, attribute = target.rpartition(":")
    # A colon can also belong to a drive letter, "C:\\app.py".
    if not colon or not attribute.isidentifier():
        return target, "", ""
    return head, colon, attribute


def _is_file(path: str) -> bool:
    return path.endswith(".py") or os.sep in path or (os.altsep is not None and os.altsep in path)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModuleInvalid(
            f"there is no file {path}",
            where=f"looked up in {Path.cwd()}",
            fix="give the path of a Python file",
        )
    sys.path.insert(0, str(path.resolve().parent))
    # A name of its own, so that a file called like a package it imports does not hide it.
    name = f"exotrio_app_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModuleInvalid(f"{path} is no Python file", fix="give a file whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    # pydantic looks the module up while it resolves the annotations of classes in it.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
        raise ModuleInvalid(
            f"there is no module {name!r}",
            where=f"looked up from {Path.cwd()}",
            fix=f"for a file give its path: ./{name}.py",
        ) from error


def _place(error: BaseException) -> str:
    """Return file and line of the innermost frame that is the user's, as far as that can be told."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"in {error.filename}, line {error.lineno}"
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename
    ]
    return f"in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""


def _how_many(found: dict[str, T], what: str) -> str:
    return f"{len(found)} {what}s" if found else f"no {what}"


def _meant(name: str, known: dict[str, T]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
