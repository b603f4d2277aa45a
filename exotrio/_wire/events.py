"""Bodies of native routes about the events of runs."""

from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, Field

from exotrio._wire.body import Body, Moment, Texts
from exotrio._wire.vocabulary import check_key

EVENT_PATH = "/event"
"""Of the page of a link that sends an event."""
EventName = Annotated[str, AfterValidator(check_key)]
"""It follows the rules of the key of a run."""


class EventRequest(Body):
    """An event for a run: its fields as texts."""

    name: EventName
    value: Texts = Field(default_factory=dict)


class SentEvent(Body):
    """What sending an event did.

    Fields:
        created: False if the same event was sent before.
        woken: How many states waited for it. It is kept if none did.
        similar: The event of a place of the graph whose name resembles this one, for which no place waits;
            None if there is none. A node may still wait for this one.
    """

    run_id: str
    name: str
    created: bool
    woken: int
    similar: str | None = None


class KeptEvent(Body):
    """An event that was sent to a run."""

    name: str
    value: dict[str, str]
    sent_at: Moment


class EventWait(Body):
    """States of one place that wait for an event.

    Fields:
        since: When the first of them began to wait.
        until: When its deadline passes; None if it has none.
        fields: Field name to the JSON schema of its text; None if a node waits, which takes any.
    """

    name: str
    identifier: str
    node_name: str
    states: int
    since: Moment
    until: Moment | None = None
    fields: dict[str, dict[str, Any]] | None = None


class RunEvents(Body):
    """The events of a run, the newest first, and what its states wait for, the oldest first: of each up to
    ``MAX_SHOWN``, and of these fewer if their fields have more than 1 MiB."""

    sent: list[KeptEvent]
    waiting: list[EventWait]


MAX_SHOWN = 1_000


class ClaimedEvent(Body):
    """The event that a state waited for; ``value`` is None if the deadline passed without it."""

    name: str
    value: dict[str, str] | None = None


class EventLinkRequest(Body):
    """What a link sends, and until when it works, as in ``StateManager.event_link``."""

    name: EventName
    value: Texts
    until: AwareDatetime


class EventLinkReply(Body):
    """The path, with its query, at the state manager that sends one event to one run, without a key.

    GET returns a page for people. POST, without a body, sends the event: the status is 200 if its value was
    sent, now or before, 409 if another one was, and 404 if the link does not work any more.
    """

    path: str
