"""What new code breaks in runs that old code began: the models of both versions are compared. Pure.

A run keeps the graph that it began with. So the new code gets the inputs that the old graph names, and has to
return the outputs that the old graph reads. It also has to read the checkpoints that the old code stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from exotrio._fields.declared import VALUES, Declared, declared, resolve
from exotrio._fields.fit import fits
from exotrio.graph import WITHOUT_RUNTIME, GraphNodeModel
from exotrio.graph.placeholders import OutputRef, parse_placeholders

Models = Mapping[str, Mapping[str, Any]]
"""The JSON schemas of a node class: of its ``Inputs``, ``Outputs`` and ``Checkpoint``, by these names."""
_UNTIL = "until the runs of the old code have ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakingChange:
    """A change of a node class that breaks runs which the old code began.

    Attributes:
        node: Name of the class.
        field: Such as ``Inputs.word``; empty if the new code lacks the class.
        old: The values that the old code has there; None if it has no such field.
        new: The values that the new code accepts there; None if it has no such field.
        certain: Whether all values break, and not only some.
        places: The identifiers in the graph whose states break: they have not ended yet, or are not created.
    """

    node: str
    field: str
    old: str | None
    new: str | None
    what: str
    fix: str
    certain: bool = True
    places: tuple[str, ...] = ()

    def __str__(self) -> str:
        name = self.node
        if self.field:
            old, new = self.old or "no such field", self.new or "no such field"
            name = f"{name}.{self.field} (old code: {old}; new code: {new})"
        return f"{name}: {self.what}; {self.fix}"


def breaking_changes(
    nodes: Iterable[GraphNodeModel],
    old: Mapping[str, Models],
    new: Mapping[str, Models],
    *,
    namespace: str | None = None,
) -> list[BreakingChange]:
    """Return the changes that break runs of a graph of the old code, each once.

    Args:
        old: Name of each node class of the old code to its models.
        new: The same of the new code.
        namespace: Of the code; nodes of another one are not compared. Defaults to any.
    """
    ours = [place for place in nodes if namespace in (None, place.namespace)]
    places = {place.identifier: place for place in ours if place.node_name not in WITHOUT_RUNTIME}
    changes: dict[tuple[str, str], BreakingChange] = {}
    for place in ours:
        found = _of_place if place.identifier in places else _lost_outputs
        for change in found(place, places, old, new):
            known = changes.setdefault((change.node, change.field), change)
            where = tuple(dict.fromkeys([*known.places, *(change.places or (place.identifier,))]))
            changes[change.node, change.field] = replace(known, places=where)
    return list(changes.values())


def _of_place(
    place: GraphNodeModel,
    places: Mapping[str, GraphNodeModel],
    old: Mapping[str, Models],
    new: Mapping[str, Models],
) -> Iterator[BreakingChange]:
    node = place.node_name
    if node not in new:
        yield BreakingChange(
            node=node,
            field="",
            old=node,
            new=None,
            what=f"the new code has no such class, so states of {place.identifier!r} wait without a limit",
            fix=f"keep it {_UNTIL}",
        )
        return
    yield from _of_checkpoint(node, old.get(node, {}), new[node])
    before, after = _fields(old.get(node, {}).get("Inputs")), _fields(new[node].get("Inputs"))
    for name, schema in after.items():
        if name not in place.inputs:
            if name in new[node]["Inputs"].get("required", ()):
                gone = [each for each in place.inputs if each not in after]
                yield _new_input(node, name, schema, gone, before)
            continue
        yield from _changed(node, f"Inputs.{name}", before.get(name, {}), schema)
    yield from _lost_outputs(place, places, old, new)


def _lost_outputs(
    place: GraphNodeModel,
    places: Mapping[str, GraphNodeModel],
    old: Mapping[str, Models],
    new: Mapping[str, Models],
) -> Iterator[BreakingChange]:
    """Yield which outputs that a place reads the new code does not return as it accepts them; the place may
    run no node, but another graph."""
    runs_node = place.identifier in places
    after = _fields(new[place.node_name].get("Inputs")) if runs_node else {}
    for reader, name, text in _texts_read(place, after if runs_node else place.inputs):
        pieces = parse_placeholders(text)
        for reference in pieces:
            if isinstance(reference, OutputRef) and (source := places.get(reference.identifier)):
                accepted = after.get(name) if len(pieces) == 1 and not _unites(place, source) else None
                yield from _lost_output(reader, source, reference.field, accepted, old, new)


def _texts_read(place: GraphNodeModel, inputs: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yield the texts of a place that have to be built: what reads it, the name of the input or an empty one,
    and the text."""
    named = f"of {place.identifier!r}"
    for name in inputs:
        if name in place.inputs:
            yield f"input {name!r} {named}", name, place.inputs[name]
    for limit in place.limits:
        yield f"the key of limit {limit.name!r} {named}", "", limit.key
    if place.when is not None:
        yield f"the condition {named}", "", place.when.of


def _unites(place: GraphNodeModel, source: GraphNodeModel) -> bool:
    """Whether a place may read a list of the outputs of another one."""
    return place.unites is not None and place.unites.identifier != source.identifier


def _of_checkpoint(node: str, old: Models, new: Models) -> Iterator[BreakingChange]:
    if "Checkpoint" not in old:
        return
    before, model = _fields(old["Checkpoint"]), new.get("Checkpoint", {})
    after = _fields(model)
    or_restart = "or retry such states with --from-beginning"
    gone = [] if model.get("additionalProperties") else [name for name in before if name not in after]
    for name, schema in after.items():
        if name in before:
            yield from _changed(node, f"Checkpoint.{name}", before[name], schema)
        elif name in model.get("required", ()):
            yield BreakingChange(
                node=node,
                field=f"Checkpoint.{name}",
                old=None,
                new=_form(schema),
                what="checkpoints of the old code lack it, and it has no default",
                fix=f"give it a default, {or_restart}",
            )
    for name in gone:
        yield BreakingChange(
            node=node,
            field=f"Checkpoint.{name}",
            old=_form(before[name]),
            new=None,
            what="checkpoints of the old code have it",
            fix=f"keep it {_UNTIL}, or set extra='ignore' in the model_config of Checkpoint, {or_restart}",
        )


def _new_input(
    node: str, name: str, schema: Mapping[str, Any], gone: list[str], before: Mapping[str, Any]
) -> BreakingChange:
    """Return the change for an input that runs of the old code lack; only those have the ``gone`` ones."""
    what = f"runs of the old code have no {name!r}, and it has no default"
    fix = f"give it a default {_UNTIL}"
    if len(gone) == 1:
        what += f", while {gone[0]!r} is not read any more"
        if declared(schema).annotation is str:
            what += ": it seems to be renamed"
            alias = f'validation_alias=AliasChoices("{name}", "{gone[0]}")'
            fix = f'{_UNTIL}, read both: {name}: str = Field("", {alias})'
        else:
            fix += f", or keep the name {gone[0]!r}"
    return BreakingChange(
        node=node,
        field=f"Inputs.{name}",
        old=f"{gone[0]}: {_form(before.get(gone[0], {}))}" if len(gone) == 1 else None,
        new=_form(schema),
        what=what,
        fix=fix,
    )


def _lost_output(
    reader: str,
    source: GraphNodeModel,
    field: str,
    accepted: Any,
    old: Mapping[str, Models],
    new: Mapping[str, Models],
) -> Iterator[BreakingChange]:
    """Yield the change for an output that the new code does not return, or not as the reader accepts it.

    ``accepted`` is the schema of the input that is this output, and nothing else; None if there is none.
    """
    node = source.node_name
    before = _fields(old.get(node, {}).get("Outputs")).get(field, {})
    if node in new and field not in _fields(new[node].get("Outputs")):
        yield BreakingChange(
            node=node,
            field=f"Outputs.{field}",
            old=_form(before),
            new=None,
            what=f"in runs of the old code, {reader} reads it",
            fix=f"return it, too, {_UNTIL}",
            places=(source.identifier,),
        )
    elif node in new and accepted is not None:
        after = _fields(new[node].get("Outputs"))[field]
        if after != before and any(_changed(node, field, after, accepted)):
            yield BreakingChange(
                node=node,
                field=f"Outputs.{field}",
                old=_form(before),
                new=_form(after),
                what=f"in runs of the old code, {reader} reads it, and does not accept every value",
                fix=f"return the old form {_UNTIL}, or have the reader accept both",
                certain=False,
                places=(source.identifier,),
            )


def _changed(
    node: str, field: str, old: Any, new: Any, *, in_json: bool = False, within: frozenset[str] = frozenset()
) -> Iterator[BreakingChange]:
    """Yield where values of one schema may not be values of another, also within models and lists."""
    old, new = _Part.of(old), _Part.of(new)
    if not new.names.isdisjoint(within):
        return  # a model that has itself as a part
    within |= new.names
    if old.optional <= new.optional:
        if old.items is not None and new.items is not None:
            yield from _changed(node, f"{field}[]", old.items, new.items, in_json=True, within=within)
            return
        if old.fields and new.fields:
            for name, schema in new.fields.items():
                inner = f"{field}.{name}"
                if name in old.fields:
                    before = old.fields[name]
                    yield from _changed(node, inner, before, schema, in_json=True, within=within)
                elif name in new.schema.get("required", ()):
                    what = "values of the old code lack it, and it has no default"
                    fix = f"give it a default {_UNTIL}"
                    yield BreakingChange(
                        node=node, field=inner, old=None, new=_form(schema), what=what, fix=fix
                    )
            return
    before, after = old.values, new.values
    if not fits(before.annotation, after.annotation, in_json=in_json) or _is_narrower(before, after):
        yield BreakingChange(
            node=node,
            field=field,
            old=_form_of(before),
            new=_form_of(after),
            what="not every value of the old code is accepted",
            fix=f"accept both {_UNTIL}",
            certain=False,
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """A schema of values, or of a part of them, without the references to its definitions.

    Attributes:
        optional: Whether ``null`` is accepted, too.
        names: Of the definitions that it refers to.
        items: Of a list, the schema of its elements.
        fields: Of a model, the schemas of its fields.
        values: What is accepted.
    """

    schema: Mapping[str, Any]
    optional: bool
    names: frozenset[str]
    items: Any
    fields: Mapping[str, Any]
    values: Declared

    @classmethod
    def of(cls, schema: Mapping[str, Any]) -> _Part:
        values = declared(schema)
        schema = schema.get(VALUES, schema)
        definitions = {"$defs": schema.get("$defs", {})}
        optional, names = False, frozenset[str]()
        with suppress(LookupError, TypeError, ValueError, AttributeError):
            schema, optional, names = resolve(schema, definitions["$defs"])
        items = schema.get("items")
        return cls(
            schema,
            optional,
            names,
            {**items, **definitions} if isinstance(items, Mapping) else None,
            {name: {**each, **definitions} for name, each in schema.get("properties", {}).items()},
            values,
        )


def _is_narrower(old: Declared, new: Declared) -> bool:
    """Whether a limit was added, or admits less than before."""
    for name, limit in new.limits.items():
        before = old.limits.get(name)
        if before is None or (
            before != limit
            and not (name.startswith("min") and limit < before)
            and not (name.startswith("max") and limit > before)
        ):
            return True
    return False


def _fields(schema: Any) -> Mapping[str, Any]:
    properties: Mapping[str, Any] = (schema or {}).get("properties", {})
    return properties


def _form(schema: Mapping[str, Any]) -> str:
    return _form_of(declared(schema))


def _form_of(values: Declared) -> str:
    return values.description or "a text"
