"""How another process finds a node class: by the module that it imports, or the file that it loads."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from types import ModuleType

from exotrio._nodes.base import BaseNode

MAIN = "__mp_main__"
"""Name of a program's own file in another process: not ``__main__``, so that it does not start there again.
``multiprocessing`` gives it the same name."""


GUARD = "put the start under: if __name__ == '__main__':"
_is_worker_process = False


def be_worker_process() -> None:
    """Mark this process as one that runs single nodes for a runtime in another process.

    A file of nodes that is not guarded starts its runtime when it is loaded: in a worker process that would
    claim states, and start worker processes, which load the file, and so on.
    """
    global _is_worker_process
    _is_worker_process = True


def is_worker_process() -> bool:
    """Whether no runtime and no other worker process may be started here."""
    return _is_worker_process


class NotImportable(Exception):
    """Another process cannot find a class; the message says why, and how to fix it."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a class is.

    Attributes:
        module: Name of its module; ``__main__`` for a program's own file.
        name: Its qualified name there.
        file: The file of the module, if it has one.
    """

    module: str
    name: str
    file: str | None


def target_of(node: type[BaseNode]) -> Target:
    """Return where another process finds ``node``. Raises NotImportable."""
    module_name, name = node.__module__, node.__qualname__
    if "<locals>" in name:
        raise NotImportable("it is defined in a function: move it to the top level of its module")
    module = sys.modules.get(module_name)
    # Python deletes the ``__file__`` of a program whose main thread has ended.
    file = getattr(module, "__file__", None) or getattr(getattr(module, "__loader__", None), "path", None)
    file = os.path.abspath(file) if isinstance(file, str) and os.path.isfile(file) else None
    spec = getattr(module, "__spec__", None)
    if module_name == "__main__" and spec is not None:
        module_name = spec.name  # of python -m; by this name it can be imported
    if file is None and (spec is None or module_name == "__main__"):
        raise NotImportable(
            f"it is defined in {module_name}, which is not a file (a notebook, an interactive session): "
            "write it into a file"
        )
    if _lookup(module, name) is not node:
        raise NotImportable(
            f"{module_name} has another object, or none, named {name}: "
            "define it by a class statement at the top level, under its own name"
        )
    return Target(module_name, name, file)


def load(target: Target) -> type[BaseNode]:
    """Return the class, in another process. Raises NotImportable, or what its module raises."""
    if target.module == "__main__":
        module = sys.modules["__main__"]
        if module.__name__ != MAIN:
            module = module_from_file(MAIN, target.file, is_main=True)
    else:
        module = sys.modules.get(target.module) or _imported(target)
    node = _lookup(module, target.name)
    if not (isinstance(node, type) and issubclass(node, BaseNode)):
        raise NotImportable(
            f"{target.file or target.module} has no node class {target.name}, though it had when the runtime "
            "was built: was the file changed? Start the runtime again"
        )
    return node


def _imported(target: Target) -> ModuleType:
    try:
        spec = importlib.util.find_spec(target.module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or (target.file and os.path.abspath(spec.origin or "") != target.file):
        # It was loaded by its path, as the command line does it, under a name that cannot be imported.
        return module_from_file(target.module, target.file)
    return importlib.import_module(target.module)


def module_from_file(name: str, file: str | None, *, is_main: bool = False) -> ModuleType:
    """Return the module of a file, loaded under a name. Raises NotImportable, or what the module raises.

    With ``is_main`` it is also ``__main__``, for what its code pickles.
    """
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise NotImportable(f"{name} cannot be loaded from the file {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pydantic looks it up while it resolves annotations
    before = sys.modules["__main__"]
    if is_main:
        # Before it runs: if it imports ``multiprocessing``, that sets ``MAIN`` to what ``__main__`` is.
        sys.modules["__main__"] = module
        # With a spec, a process that ``multiprocessing`` spawns would load it by name; without one, by file.
        module.__spec__ = None
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        sys.modules["__main__"] = before
        raise
    return module


def _lookup(module: object, name: str) -> object:
    for part in name.split("."):
        module = getattr(module, part, None)
    return module
