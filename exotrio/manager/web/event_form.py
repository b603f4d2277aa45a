"""The forms on the page of a run that send what it waits for: each has a field for each field of an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic_core import from_json

from exotrio._fields.declared import declared
from exotrio._wire.events import EventWait
from exotrio.manager.queries.waiting import waits_in
from exotrio.manager.rules.errors import Conflict
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View
from exotrio.manager.web.guard import Form, field
from exotrio.manager.web.page import FormRejected
from exotrio.manager.web.start_form import FormField

MAX_FORMS = 20
FIELD, JSON = "field.", "json"
"""Prefix of the names of fields, and the name of the one for an event without declared fields."""


@dataclass(kw_only=True)
class EventForm:
    """The form for one event. ``problem`` is what is wrong, if not with a field."""

    wait: EventWait
    fields: Sequence[FormField]
    problem: str = ""

    @property
    def wrong(self) -> list[FormField]:
        return [each for each in self.fields if each.problem]

    def fill(self, form: Form) -> None:
        for each in self.fields:
            each.text = field(form, each.name)

    def value(self) -> dict[str, str]:
        """Return the value to send; set the problems of fields that are wrong."""
        for each in self.fields:
            each.problem = each.find_problem()
        if self.wait.fields is not None:
            return {each.label: each.text for each in self.fields if each.is_changed}
        (free,) = self.fields
        try:
            value = from_json(free.text or "{}")
            if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
                return value
        except ValueError:
            pass
        free.problem = 'must be a JSON object of texts, such as {"by": "ada"}'
        return {}


def event_forms(view: View, run: Row, rejected: FormRejected | None = None) -> list[EventForm]:
    """Return the forms of a run for what it waits for; the one that was rejected is filled in as it was
    sent."""
    forms = [_form(number, wait) for number, wait in enumerate(waits_in(view, run)[:MAX_FORMS], 1)]
    for form in forms:
        if rejected is not None and _is_for(form, rejected.form):
            form.fill(rejected.form)
            form.problem = rejected.problems.get("", "")
            for each in form.fields:
                each.problem = rejected.problems.get(each.name)
    return forms


def sent_event(view: View, run: Row, sent: Form) -> tuple[str, dict[str, str]]:
    """Return the event of a form that was sent, and its value.

    Raises:
        FormRejected: a field is wrong.
        Conflict: nothing waits for the event any more.
    """
    form = next((each for each in event_forms(view, run) if _is_for(each, sent)), None)
    if form is None:
        raise Conflict(f"nothing waits for the event {field(sent, 'event')!r} any more")
    form.fill(sent)
    value = form.value()
    if problems := {each.name: each.problem for each in form.fields if each.problem}:
        raise FormRejected(sent, problems)
    return form.wait.name, value


def _is_for(form: EventForm, sent: Form) -> bool:
    return (form.wait.name, form.wait.identifier) == (field(sent, "event"), field(sent, "place"))


def _form(number: int, wait: EventWait) -> EventForm:
    if wait.fields is None:
        free = FormField(
            id=f"event-{number}", name=JSON, label="Fields", about="A JSON object of texts", text="{}"
        )
        return EventForm(wait=wait, fields=[free])
    fields = []
    for index, (name, schema) in enumerate(wait.fields.items(), 1):
        default = schema.get("default")
        fields.append(
            FormField(
                id=f"event-{number}-{index}",
                name=FIELD + name,
                label=name,
                values=declared(schema),
                about=str(schema.get("description", "")),
                default=default,
                text=default or "",
            )
        )
    return EventForm(wait=wait, fields=fields)
