"""The form that starts a run: a field for each input of the root and each key of the store, of the type that
the nodes declare, with the graph's value to be edited. A run gets the fields whose text is another one."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Annotated
from urllib.parse import quote_plus

from pydantic import Field as Constraints

from exotrio._fields.declared import ANY_TEXT, Declared
from exotrio._util.redaction import redactor_of
from exotrio._util.words import listed
from exotrio._wire.vocabulary import MAX_WEIGHT, MIN_WEIGHT, Priority, check_key
from exotrio.graph.placeholders import Piece, StoreRef
from exotrio.graph.values import Place
from exotrio.manager.engine.graphs import find_graph
from exotrio.manager.engine.order import NAMES, weight_of
from exotrio.manager.engine.runs import find_run
from exotrio.manager.engine.triggers import started_with
from exotrio.manager.queries.graphs import Field, input_fields
from exotrio.manager.rules.errors import NotFound
from exotrio.manager.rules.template import Template
from exotrio.manager.store.cipher import open_secrets
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View
from exotrio.manager.web.guard import Form, field
from exotrio.manager.web.page import FormRejected, PageRequest

INPUT, STORE = "input.", "store."
"""Prefixes of the names of fields; the rest is the name of the input or the key."""
MAX_DELAY = 30 * 86_400
"""Seconds by which the start of a run may be delayed."""
MAX_FILLED = 900_000
"""Bytes, as sent, that it is filled in with: the whole form must fit into ``guard.MAX_FORM``."""
LONG = 100
"""Characters above which a text gets several lines."""

_LINE_END = re.compile(r"\r\n?|\n")
"""Browsers send any of them back as the same."""
_SHOWN = {
    "number": re.compile(r"-?(\d+(\.\d+)?|\.\d+)([eE][-+]?\d+)?"),
    "date": re.compile(r"\d{4}-\d\d-\d\d"),
    "time": re.compile(r"\d\d:\d\d(:\d\d)?"),
}
"""The texts that browsers show in a field of a type. With any other text they show it empty."""
_PRIORITY = Declared(choices=tuple(Priority))
_DELAY = Declared(
    type="number",
    description=f"a number of seconds from 0 to {MAX_DELAY:,}",
    limits={"minimum": 0, "maximum": MAX_DELAY},
    annotation=Annotated[float, Constraints(ge=0, le=MAX_DELAY)],
)
_WEIGHT = Declared(
    type="number",
    description=f"a number from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}",
    limits={"minimum": MIN_WEIGHT, "maximum": MAX_WEIGHT},
    annotation=Annotated[float, Constraints(ge=MIN_WEIGHT, le=MAX_WEIGHT)],
)
_ABOUT_KEY = (
    "Optional, such as an order number, and not a secret. With the same key again, the same run: no second"
    " one is started."
)


@dataclass(kw_only=True)
class FormField:
    """One field.

    Attributes:
        label: The name of the input, or the key.
        default: The graph's value; None if there is none that it accepts, so that a text is required.
        is_fixed: Whether the graph's value is too long to be edited here.
        is_rare: Whether it is shown only if its text is not the default.
        problem: What is wrong with the text, as in "must be a whole number".
    """

    id: str
    name: str
    label: str
    values: Declared = ANY_TEXT
    about: str = ""
    default: str | None = ""
    text: str = ""
    is_fixed: bool = False
    is_rare: bool = False
    problem: str | None = None

    def find_problem(self) -> str | None:
        """Return what is wrong with the text in it."""
        if self.name in ("key", "fair_key"):
            return _problem_of_key(self.text.strip())
        if self.default is None and not self.text:
            return "is required"
        return self.values.problem(self.text) if self.is_changed else None

    @property
    def is_changed(self) -> bool:
        """Whether a run gets its text, and not the graph's value."""
        return not self.is_fixed and (self.default is None or self.text != _LINE_END.sub("\n", self.default))

    @property
    def options(self) -> list[str]:
        choices = [*self.values.choices, *(["null"] if self.values.is_optional else ()), self.text]
        return [text for text in dict.fromkeys(choices) if text]

    @property
    def control(self) -> str:
        """``select``, ``textarea``, or the type of an ``input`` that shows its text as it is."""
        kind = self.values.type
        if self.values.choices:
            return "select"
        if kind in ("array", "object"):
            return "textarea"
        if not self.values.is_optional:
            control = "number" if kind == "integer" else kind
            if control in _SHOWN and (not self.text or self._is_shown_in(control)):
                return control
        is_long = self.is_fixed or _LINE_END.search(self.text) or len(self.text) > LONG
        return "textarea" if is_long or self.values.limits.get("maxLength", 0) > LONG else "text"

    def _is_shown_in(self, control: str) -> bool:
        # A number beyond its limits is shown anyway; a date that does not exist is not.
        fits = control == "number" or self.values.problem(self.text) is None
        return fits and _SHOWN[control].fullmatch(self.text) is not None


def _problem_of_key(key: str) -> str | None:
    try:
        if key:
            check_key(key)
    except ValueError as error:
        return str(error)
    return None


class StartForm:
    """The form of a graph, filled in with its values at first.

    Attributes:
        inputs: The fields of the inputs of the root.
        store: The fields of the keys of the store.
        run: The other fields.
        taken_from: The id of the run whose values it was filled in with.
        problem: What is wrong, if not with a field.
        is_sent: Whether it was sent, and not accepted.
    """

    def __init__(self, view: View, template: Template) -> None:
        self._template = template
        self._left = MAX_FILLED
        root, config = template.root, template.body.store_config
        fields_of = cache(partial(input_fields, view))

        def declared(place: Place, name: str) -> Field:
            return fields_of(place.namespace, place.node_name).get(name) or Field(name)

        def declared_key(key: str) -> Field:
            """Return the declaration of all inputs that are this key, if they accept the same values."""
            fields = [declared(place, name) for place, name in template.inputs_by_key.get(key, ())]
            is_one = fields and all(each.values == fields[0].values for each in fields)
            return replace(fields[0], name=key) if is_one else Field(key)

        self.inputs: list[FormField] = []
        for name, text in root.raw_inputs.items():
            built = any(isinstance(piece, StoreRef) for piece in root.inputs[name])
            self._add(self.inputs, INPUT, declared(root, name), text, built)
        self.store: list[FormField] = []
        required = dict.fromkeys(config.required_keys)
        for key, value in {**required, **config.default_values, **required}.items():
            self._add(self.store, STORE, declared_key(key), value)
        self.run = [
            FormField(id="key", name="key", label="Key", about=_ABOUT_KEY),
            FormField(
                id="delay", name="delay", label="Delay in seconds", values=_DELAY, default="0", text="0"
            ),
            FormField(
                id="priority",
                name="priority",
                label="Priority",
                values=_PRIORITY,
                default=Priority.NORMAL,
                text=Priority.NORMAL,
            ),
            FormField(
                id="weight",
                name="weight",
                label="Weight",
                about="Its share among runs of its priority",
                values=_WEIGHT,
                default="1",
                text="1",
                is_rare=True,
            ),
            FormField(
                id="fair-key",
                name="fair_key",
                label="Fairness key",
                about="Runs with the same key count as one run.",
                is_rare=True,
            ),
        ]
        self.taken_from = self.problem = ""
        self.is_sent = False

    def _add(
        self, fields: list[FormField], prefix: str, declared: Field, text: str | None, built: bool = False
    ) -> None:
        default = text if text is None or built or declared.values.problem(text) is None else None
        added = FormField(
            id=f"{prefix[:-1]}-{len(fields) + 1}",
            name=prefix + declared.name,
            label=declared.name,
            values=declared.values,
            about=declared.description,
            default=default,
        )
        added.is_fixed = not self._put(added, default or "")
        fields.append(added)

    def _put(self, into: FormField, text: str) -> bool:
        """Put a text into a field, if the form does not become too long; return whether it did."""
        size, old = (
            len(quote_plus(each.replace("\n", "\r\n"), errors="replace")) for each in (text, into.text)
        )
        fits = size - old <= self._left
        if fits:
            self._left -= size - old
            into.text = text
        return fits

    @property
    def fields(self) -> list[FormField]:
        return [*self.inputs, *self.store, *self.run]

    @property
    def wrong(self) -> list[FormField]:
        return [each for each in self.fields if each.problem]

    @staticmethod
    def texts_of(fields: Iterable[FormField]) -> dict[str, str]:
        """Return the texts of fields by their labels, without fields that have the graph's value."""
        return {each.label: each.text for each in fields if each.is_changed}

    def fill(self, form: Form) -> None:
        for each in self.fields:
            if each.name in form:
                each.text, each.is_fixed = field(form, each.name), False
        self.taken_from = field(form, "from")
        self.is_sent = True

    def fill_from(
        self, run: Row, inputs: Mapping[str, str], store: Mapping[str, str], secrets: Collection[str]
    ) -> None:
        """Fill it in with the order, the inputs and the store of another run, where they differ from the
        defaults. Keys of its store that the graph does not declare are left out: v0 accepts any.

        A text that contains a secret of the graph, or is too long, is left out: a problem of its field.
        """
        self.taken_from = run["run_id"]
        in_order = {
            "priority": NAMES[run["priority"]],
            "weight": f"{weight_of(run['share']):g}",
            "fair_key": run["fair_key"] or "",
        }
        for each in self.run:
            each.text = in_order.get(each.name, each.text)
        known = {**self._template.body.store_config.default_values, **store}
        root = self._template.root
        by_graph = {INPUT + name: _built(root.inputs[name], known) for name in root.inputs}
        by_graph |= {each.name: each.default for each in self.store}
        texts = {INPUT + name: text for name, text in inputs.items()}
        texts |= {STORE + key: text for key, text in store.items()}
        redactor = redactor_of(secrets)
        for each in (*self.inputs, *self.store):
            text = texts.get(each.name)
            if text is None or text == by_graph[each.name]:
                continue
            if text in secrets or redactor.redact(text) != text:
                each.problem = "has a secret of the graph in that run, which is not shown"
            elif not self._put(each, text):
                each.problem = f"has {len(text):,} characters in that run, too many for this form"
            else:
                each.is_fixed = False


def _built(pieces: Iterable[Piece], store: Mapping[str, str]) -> str | None:
    """Return the text that a graph makes of a store; None if a key is missing."""
    texts = [store.get(piece.key) if isinstance(piece, StoreRef) else piece for piece in pieces]
    return "".join(map(str, texts)) if None not in texts else None


def start_form(view: View, request: PageRequest, graph: Row, template: Template) -> StartForm:
    """Return the form of a graph: with its values, those of another run, or what was sent and rejected."""
    form = StartForm(view, template)
    if request.rejected is not None:
        form.fill(request.rejected.form)
        form.problem = request.rejected.problems.get("", "")
        for each in form.fields:
            each.problem = request.rejected.problems.get(each.name)
    elif run_id := request.query.get("from"):
        run = find_run(view, request.namespace, run_id)
        if run["graph"] != graph["id"]:
            raise NotFound(f"run {run_id!r} is not a run of graph {graph['name']!r}")
        secrets, _ = open_secrets(view, [graph["id"]], request.service.cipher)[graph["id"]]
        form.fill_from(run, *started_with(view, run), secrets)
    return form


def sent_form(view: View, request: PageRequest, sent: Form) -> StartForm:
    """Return the form of a graph as it was sent; raise FormRejected if a field is wrong."""
    graph = find_graph(view, request.namespace, request.params["graph"])
    form = StartForm(view, view.template(graph["template"]))
    form.fill(sent)
    problems = {each.name: problem for each in form.fields if (problem := each.find_problem())}
    known = {each.name for each in form.fields}
    if gone := [name for name in sent if name.startswith((INPUT, STORE)) and name not in known]:
        # Otherwise the run would start without what was entered there.
        problems[""] = f"the graph was changed and has no {listed(gone)} any more; check the other fields"
    if problems:
        raise FormRejected(sent, problems)
    return form
