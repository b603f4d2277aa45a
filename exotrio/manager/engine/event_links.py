"""Links by which a person without a key sends one event to one run.

A link contains all that it is about: run, event, value, and until when it works. It is encrypted and
authenticated with a key that is derived from the keys for secrets at rest, so all state managers on a
database know it, and it works as long as the key that made it is given. It reveals nothing, and nothing is
stored for it but who made it, in the record of changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from enum import StrEnum

from pydantic_core import from_json, to_json

from exotrio.manager.engine.mailbox import check_event, is_same_event
from exotrio.manager.engine.runs import find_run, lock_run
from exotrio.manager.engine.sending import send
from exotrio.manager.rules.errors import Conflict, InvalidRequest, NotFound
from exotrio.manager.store.cipher import Cipher
from exotrio.manager.store.effects import NO_EFFECTS, WithEffects
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

MAX_LENGTH = 1_800
"""Characters of a link without its server: some mail programs cut addresses of more than 2,000."""
MAX_DAYS = 366
"""Days for which a link may work."""
_PURPOSE = "links that send events"


class LinkState(StrEnum):
    """What became of a link that works: nothing yet, its value was sent, or another one was."""

    OPEN = "open"
    SENT = "sent"
    OTHER_SENT = "other sent"


@dataclass(frozen=True, slots=True)
class EventLink:
    """What a link sends. ``created_at`` is of the run, in Unix ms, as ``until`` is: another run may be given
    the id of one that was deleted."""

    namespace: str
    run_id: str
    created_at: int
    name: str
    value: Mapping[str, str]
    until: int


def make_event_link(
    tx: Transaction,
    cipher: Cipher,
    namespace: str,
    run_id: str,
    name: str,
    value: Mapping[str, str],
    until: int,
) -> str:
    """Return the text that ``read_event_link`` reads.

    Raises:
        NotFound: there is no such run.
        Conflict: it has ended.
        InvalidRequest: the event cannot be sent to the run, or the link would be too long, or would not work,
            or for too long.
    """
    run = find_run(tx, namespace, run_id)
    if not run["pending"]:
        raise Conflict(f"run {run_id} has ended, so it accepts no event")
    check_event(tx.template(run["template"]), name, value)
    if not 0 < until - tx.now_ms <= MAX_DAYS * 86_400_000:
        raise InvalidRequest(f"until has to be a time within the next {MAX_DAYS} days")
    link = EventLink(namespace, run_id, run["created_at"], name, value, until)
    text = cipher.seal(to_json(astuple(link)), purpose=_PURPOSE)
    if len(text) > MAX_LENGTH:
        raise InvalidRequest(
            f"the link would have {len(text):,} characters; at most {MAX_LENGTH:,} are allowed, since mail"
            " programs cut long ones: send less by it"
        )
    tx.record("run.link", namespace, run_id, name)
    return text


def read_event_link(text: str, cipher: Cipher) -> EventLink | None:
    """Return what a link sends; None if it was not made by ``make_event_link``, or was changed."""
    if len(text) > MAX_LENGTH or (content := cipher.unseal(text, purpose=_PURPOSE)) is None:
        return None
    return EventLink(*from_json(content))


def link_state(view: View, link: EventLink) -> LinkState | None:
    """Return what became of a link; None if it does not work any more."""
    try:
        run = find_run(view, link.namespace, link.run_id)
    except NotFound:
        return None
    if not run["pending"] or run["created_at"] != link.created_at or view.now_ms >= link.until:
        return None
    sent = view.row("SELECT value FROM mailbox WHERE run = ? AND name = ?", (run["id"], link.name))
    if sent is None:
        return LinkState.OPEN
    value, template = from_json(sent["value"]), view.template(run["template"])
    return LinkState.SENT if is_same_event(template, link.name, value, link.value) else LinkState.OTHER_SENT


def send_by_link(tx: Transaction, link: EventLink) -> WithEffects[LinkState | None]:
    """Send the event of a link, if that works and nothing was sent; return what became of it."""
    try:
        # Before anything is checked: otherwise another run could be given the id of this one meanwhile.
        lock_run(tx, link.namespace, link.run_id)
        state = link_state(tx, link)
        if state is not LinkState.OPEN:
            return WithEffects(state, NO_EFFECTS)
        _, effects = send(tx, link.namespace, link.run_id, link.name, link.value)
    except (NotFound, Conflict):  # it was deleted, or its mailbox is full
        return WithEffects(None, NO_EFFECTS)
    return WithEffects(LinkState.SENT, effects)
