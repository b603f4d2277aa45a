"""Bodies about the record of changes: who changed what."""

from typing import Annotated

from pydantic import AwareDatetime, Field

from exotrio._wire.body import Body, Moment
from exotrio._wire.operations import PageQuery
from exotrio._wire.vocabulary import NATIVE_ROOT

AUDIT_PATH = f"{NATIVE_ROOT}/audit"

Text = Annotated[str, Field(max_length=1_000)]


DONE = {
    "run.cancel": "cancelled",
    "run.retry": "retried",
    "run.priority": "priority changed",
    "run.send": "event sent",
    "run.link": "link made",
    "run.repin": "moved",
    "run.trigger": "started",
    "graph.store": "stored",
    "graph.delete": "deleted",
    "schedule.cancel": "schedule cancelled",
    "schedule.pause": "schedule paused",
    "schedule.resume": "schedule resumed",
    "node.pause": "paused",
    "node.resume": "resumed",
    "limit.set": "set",
    "limit.delete": "deleted",
    "runtime.drain": "drained",
    "key.add": "added",
    "key.revoke": "revoked",
    "link.make": "link made",
    "session.open": "signed in",
    "backup.make": "backup made",
    "secrets.rotate": "secrets encrypted again",
}
"""What is done, in words."""


class ChangesQuery(PageQuery):
    """Which recorded changes to list, as in ``StateManager.changes``."""

    who: Text | None = None
    action: Text | None = None
    target: Text | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None


class AuditQuery(ChangesQuery):
    """Which recorded changes to list, as in ``StateManager.audit``."""

    namespace: Text | None = None


class Change(Body):
    """A change that was recorded.

    Fields:
        who: The name of the key: ``root`` for the configured one, ``dashboard of NAME`` if it signed in
            there, ``in process`` for a client without an address.
        key_id: The id of the key; None for the configured one, or if the reader may not see it.
        address: Where the request came from, as the state manager saw it; empty for ``in process``; None if
            the reader may not see it.
        request_id: The id of the request; empty or None as ``address``.
        action: What was done, such as ``run.cancel``.
        namespace: Where; empty for what belongs to no namespace.
        target: The name or id of what was changed.
        result: How much was changed, in words; may be empty.
    """

    at: Moment
    who: str
    key_id: str | None = None
    address: str | None = None
    request_id: str | None = None
    action: str
    namespace: str
    target: str
    result: str

    def text(self) -> str:
        """Return what was done to the target, and by whom, in a few words."""
        result = f" ({self.result})" if self.result else ""
        return f"{DONE.get(self.action, self.action)}{result} by {self.who}"


class ChangePage(Body):
    """A page of recorded changes, newest first; ``next`` is None on the last one."""

    changes: list[Change]
    next: str | None
