"""What a package of the stock SDK's names offers, as JSON: ``python surface.py exospherehost``.

Each exported name, and each public method of its classes, with the parameters and their defaults; for
an Enum its members instead. It runs in the SDK's own environment too, so it imports nothing of ours.
"""

import enum
import importlib
import inspect
import json
import sys
from typing import Any


def parameters(function: Any) -> list[list[str]]:
    """Return name and default of each parameter but self; no default where one has to be given."""
    names = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = parameter.default
        if isinstance(default, enum.Enum):
            default = default.value
        names.append([parameter.name] if default is parameter.empty else [parameter.name, repr(default)])
    return names


def fields(model: Any) -> list[list[str]]:
    """Return name and default of each field; its methods are pydantic's, or its validators."""
    names = []
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, enum.Enum):
            default = default.value
        names.append([name] if field.is_required() else [name, repr(default)])
    return names


def surface(package: Any) -> dict[str, Any]:
    """Return what ``package`` offers."""
    offered: dict[str, Any] = {}
    for name in package.__all__:
        value = getattr(package, name)
        if not isinstance(value, type):
            offered[name] = type(value).__name__
        elif issubclass(value, enum.Enum):
            offered[name] = {member.name: member.value for member in value}
        elif hasattr(value, "model_fields"):
            offered[name] = fields(value)
        else:
            own = value.__init__ is not Exception.__init__  # which has no signature
            offered[name] = parameters(value) if own else []
            for method, function in inspect.getmembers(value, inspect.isfunction):
                if not method.startswith("_"):
                    offered[f"{name}.{method}"] = parameters(function)
    return offered


if __name__ == "__main__":
    print(json.dumps(surface(importlib.import_module(sys.argv[1]))))
