"""The declaration of a place that waits for an event, made of the arguments of ``Graph.wait``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from exotrio._fields.allowed import field_problems
from exotrio._fields.models import Fields, field_text, fields_of, names_of, to_text
from exotrio._util.words import readable_errors
from exotrio.errors import FieldsInvalid
from exotrio.graph.declaration import WAIT_NODE
from exotrio.graph.node_model import GraphNodeModel, WaitModel

_NO_WORD = re.compile(r"\W+")


class NoFields(BaseModel):
    """The fields of an event that has none."""


def identifier_of(event: str) -> str:
    """Return the identifier of a place by the name of its event: what comes before a reference, as a word."""
    return _NO_WORD.sub("_", event.partition("${{")[0]).strip("_").lower()


def wait_of(
    *,
    identifier: str,
    namespace: str,
    event: str,
    fields: type[BaseModel] | None,
    timeout: timedelta | None,
    on_timeout: Any,
) -> tuple[GraphNodeModel | None, list[str]]:
    """Return the declaration of a place that waits, or why there is none."""
    if problems := [*_wrong_arguments(fields, on_timeout)]:
        return None, problems
    try:
        wait = WaitModel(
            event=event,
            outputs=_outputs(fields),
            timeout_ms=None if timeout is None else math.ceil(timeout / timedelta(milliseconds=1)),
            on_timeout=to_text(on_timeout) if isinstance(on_timeout, BaseModel) else on_timeout,
        )
        return GraphNodeModel(node_name=WAIT_NODE, namespace=namespace, identifier=identifier, wait=wait), []
    except FieldsInvalid as error:
        return None, [f"on_timeout=: {problem}" for problem in error.problems]
    except ValueError as error:
        return None, readable_errors(error)


def _wrong_arguments(fields: Any, on_timeout: Any) -> Iterator[str]:
    """Yield what is wrong with the arguments about the fields of an event."""
    outputs = ""
    if isinstance(fields, type) and issubclass(fields, BaseModel):
        outputs = f", or the outputs for that case, an instance of {fields.__name__}"
        for problem in field_problems(fields):
            yield f"{fields.__name__}.{problem}"
    elif fields is not None:
        yield "the fields of an event are a class that inherits from pydantic.BaseModel, or None"
        return
    is_value = fields is not None and isinstance(on_timeout, fields)
    if not is_value and on_timeout not in ("error", "prune"):
        yield f'on_timeout= is "error" or "prune"{outputs}'


def _outputs(fields: type[BaseModel] | None) -> dict[str, dict[str, Any]]:
    """Return the outputs of a place, as ``WaitModel`` has them; raise ValueError if a default is not one."""
    if fields is None:
        return {}
    schemas = (fields_of(fields) or Fields(fields)).schema()["properties"]
    return {name: _output(name, info, schemas[name]) for name, info in names_of(fields).items()}


def _output(name: str, info: FieldInfo, schema: dict[str, Any]) -> dict[str, Any]:
    output = {key: value for key, value in schema.items() if key != "default"}
    if info.is_required():
        return output
    if info.default_factory is not None:
        raise ValueError(f"field {name!r}: its default_factory would be called once, not for each event")
    return {**output, "default": field_text(info, info.default)}
