"""The exceptions of exotrio.

::

    ExotrioError
    ├── ConfigurationError       an argument, setting or node class is wrong
    ├── LifecycleError           a call that does not fit the runtime's phase (started twice, ...)
    ├── GraphInvalid             a graph broke validation rules; .problems names each
    ├── FieldsInvalid            values do not fit the typed fields of a node; .problems names each
    ├── ChildFailed              a graph that a node called failed
    ├── CheckpointNotSaved       a node ended, or was told to, while it waited for its checkpoint
    ├── DatabaseError            the state manager cannot use its database
    │   ├── DatabaseBusy         another process owns it
    │   └── DatabaseTooNew       a newer exotrio wrote it
    ├── PortBusy                 another process listens on the port
    └── ManagerError             a state manager did not do what was requested
        ├── ManagerUnavailable   no usable answer: connection, timeout, 5xx
        │   └── InvalidResponse  an answer that no state manager gives: HTML, JSON of another shape
        ├── KeyRefused           401 or 403
        ├── NotFound             404
        └── RequestRefused       any other 4xx

Every message has up to three parts: what happened, where the offending value came from, and how
to fix it. ``str(error)`` joins them with newlines; the command line prints just that.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "CheckpointNotSaved",
    "ChildFailed",
    "ConfigurationError",
    "DatabaseBusy",
    "DatabaseError",
    "DatabaseTooNew",
    "ExotrioError",
    "FieldsInvalid",
    "GraphInvalid",
    "InvalidResponse",
    "KeyRefused",
    "LifecycleError",
    "ManagerError",
    "ManagerUnavailable",
    "NotFound",
    "PortBusy",
    "ProblemsError",
    "RequestRefused",
]


class ExotrioError(Exception):
    """Root of everything exotrio raises on purpose.

    Args:
        what: What is wrong, in one line.
        where: Where the value came from (argument, variable, file), if that helps.
        fix: What the reader can do about it, if anything.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        return _joined(self.what, self.where, self.fix)


class ProblemsError(ExotrioError):
    """An error that collects several problems, so that one attempt shows them all.

    Attributes:
        problems: Each problem as one line.
    """

    def __init__(self, what: str, problems: Sequence[str] = (), *, where: str = "", fix: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.problems: tuple[str, ...] = tuple(problems)

    def __str__(self) -> str:
        head = self.what
        if self.problems:
            head = "\n- ".join([f"{head}:", *(problem.replace("\n", "\n  ") for problem in self.problems)])
        return _joined(head, self.where, self.fix)


def _joined(*parts: str) -> str:
    # Further lines of a part are indented, so that the text of a state manager cannot look like ours.
    return "\n".join(part.replace("\n", "\n  ") for part in parts if part)


class ConfigurationError(ProblemsError):
    """An argument, a setting or a node class cannot be used."""


class LifecycleError(ExotrioError):
    """The call does not fit the phase the runtime is in."""


class GraphInvalid(ProblemsError):
    """A graph template breaks the rules; ``problems`` names each."""


class FieldsInvalid(ProblemsError):
    """Values do not fit the fields of a model. ``problems`` names field and kind of value, never a value."""


class ChildFailed(ExotrioError):
    """A graph that a node called failed, or was cancelled."""


class CheckpointNotSaved(ExotrioError):
    """A node ended, or was told to, while it waited for its checkpoint. That may be stored or not."""


class DatabaseError(ExotrioError):
    """The state manager cannot use its database file."""


class DatabaseBusy(DatabaseError):
    """Another process owns the database."""


class DatabaseTooNew(DatabaseError):
    """The database was written by a newer exotrio."""


class PortBusy(ExotrioError):
    """Another process listens on the port the state manager was to use."""


class ManagerError(ExotrioError):
    """A state manager did not do what was requested.

    Attributes:
        status: HTTP status of the answer, or None without one.
    """

    def __init__(self, what: str, *, status: int | None = None, where: str = "", fix: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.status = status


class ManagerUnavailable(ManagerError):
    """No usable answer came: the connection failed, the time was up, or the answer was a 5xx.

    Attributes:
        sent: False only if the request provably never left, so that repeating it is safe.
        retry_after: Seconds the server asked to wait, or None.
    """

    def __init__(
        self,
        what: str,
        *,
        status: int | None = None,
        sent: bool = True,
        retry_after: float | None = None,
        where: str = "",
        fix: str = "",
    ) -> None:
        super().__init__(what, status=status, where=where, fix=fix)
        self.sent = sent
        self.retry_after = retry_after


class InvalidResponse(ManagerUnavailable):
    """The answer is not one of a state manager, or not of a suitable version: HTML, or JSON of another shape.

    A ``ManagerUnavailable``, since the fate of the request is just as unknown. But repeating it does not help
    as in an outage, so ``StateManager`` raises it at once. A runtime repeats it: the answer may come from a
    proxy whose state manager is being replaced, and finished work waits for that.
    """


class KeyRefused(ManagerError):
    """The API key was missing or wrong (401 or 403)."""


class NotFound(ManagerError):
    """The state manager does not know the requested object (404)."""


class RequestRefused(ManagerError):
    """The state manager refused the request itself (a 4xx other than 401, 403, 404)."""
