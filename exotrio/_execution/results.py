"""Makes the instance of a node from texts, and the outcome of its state from what it returned or raised."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel, ValidationError

from exotrio._execution.error_text import bounded, error_text
from exotrio._fields.models import fields_of
from exotrio._link.port import Claim
from exotrio._nodes.base import BaseNode, StopView, checkpoint_class_of, runs_in_of
from exotrio._nodes.checkpoint import CheckpointView, NodeCheckpoint
from exotrio._nodes.outcome import (
    CallChildren,
    Calling,
    Errored,
    Executed,
    HandedOver,
    HandOver,
    NoRetry,
    Outcome,
    Pruned,
    PruneSignal,
    Report,
    ReQueueAfterSignal,
    Requeued,
    Signal,
    WaitForEvent,
    Waiting,
)
from exotrio._nodes.progress import ProgressView
from exotrio._util.backoff import MAX_DELAY_MS
from exotrio._util.exceptions import leaves, single_leaf
from exotrio._util.json import NotJson, decode, encode, sendable
from exotrio._util.redaction import NO_SECRETS, Redactor
from exotrio._util.words import readable_errors
from exotrio._wire.vocabulary import from_ms
from exotrio.errors import ChildFailed, FieldsInvalid

_WITHOUT_ASYNCIO = ("no running event loop", "trio.run received unrecognized yield message")


class Failure(Exception):
    """A node raised in another process, where its traceback is."""

    def __init__(self, outcome: Report) -> None:
        super().__init__(outcome)
        self.outcome = outcome


def instance_of(
    node: type[BaseNode],
    claim: Claim,
    secrets: Mapping[str, str],
    view: StopView,
    progress: ProgressView,
    checkpoint: CheckpointView | None,
) -> BaseNode | Errored:
    """Return the instance of ``node`` to execute; an error if the texts of its state do not fit."""
    inputs, instance = claim.inputs, node()
    instance._run_id = claim.run_id or ""
    instance._event = claim.event
    instance._children = claim.children
    instance._stop_view = view
    instance._progress_view = progress
    fields = fields_of(node.Inputs)
    try:
        instance.inputs = (
            node.Inputs.model_validate(dict(inputs)) if fields is None else fields.decode(inputs)
        )
    except (FieldsInvalid, ValidationError) as error:
        head = f"the inputs do not fit {node.__name__}.Inputs:"
        problems = error.problems if isinstance(error, FieldsInvalid) else readable_errors(error)
        return invalid_values(head, problems, "the inputs stay the same", progress.redactor)
    try:
        if node.Secrets is not BaseNode.Secrets:
            instance.secrets = node.Secrets.model_validate(dict(secrets))
    except ValidationError as error:
        head = f"the graph's secrets do not fit {node.__name__}.Secrets:"
        text = "\n  ".join([head, *readable_errors(error)])
        # Retried: each attempt reads the secrets again, and they can be corrected meanwhile.
        return Errored(bounded(progress.redactor.redact(text)))
    if instance._checkpoint is not None:
        what = f"{node.__name__} used self.checkpoint in __init__: it is known in execute, as the inputs are"
        return invalid_values(what, (), "the code of the node has to be corrected")
    if checkpoint is not None:
        model = checkpoint_class_of(node)
        try:
            if model is None:
                raise FieldsInvalid("", ["the node has no such class"])
            instance._checkpoint = NodeCheckpoint(node.__name__, model, checkpoint)
        except FieldsInvalid as error:
            if checkpoint.last is None:
                head = f"the defaults of {node.__name__}.Checkpoint do not fit its fields:"
                return invalid_values(head, error.problems, "the code of the node has to be corrected")
            head = f"the stored checkpoint does not fit {node.__name__}.Checkpoint:"
            fix = "deploy code that reads it, or retry the state from the beginning"
            text = "\n  ".join([head, *error.problems])
            # Retried: another runtime may have code that reads it, as during an update.
            return Errored(bounded(progress.redactor.redact(f"{text}\n{fix}")))
    return instance


def failure_of(node: type[BaseNode], error: BaseException, redactor: Redactor) -> Report:
    """Return the outcome of ``node``, which raised ``error``: an error, or what a signal asks for."""
    if type(error) is Failure:
        return error.outcome
    if all(isinstance(leaf, HandOver) for leaf in leaves(error)):
        return HandedOver()  # also of several tasks, which all saw that the runtime stops
    signal = single_leaf(error)
    if isinstance(signal, Signal):
        try:
            return signalled(signal)
        except BaseException as broken:  # a signal can be subclassed, and its data replaced
            error = broken
    hint_at_asyncio(node, signal)
    why = why_no_retry(node, error)
    return Errored(error_text(error, redactor, why), retry=not why)


def hint_at_asyncio(node: type[BaseNode], error: BaseException) -> None:
    """Add a note to an error that a node written for asyncio raises on Trio: what its class has to
    declare."""
    # A plain def runs outside of any loop.
    on_trio = inspect.iscoroutinefunction(node.execute) and runs_in_of(node) != "asyncio"
    if not on_trio or type(error) not in (RuntimeError, TypeError):
        return
    # Only a str: the ``__str__`` of another object may raise.
    if error.args and type(error.args[0]) is str and error.args[0].startswith(_WITHOUT_ASYNCIO):
        error.add_note(f'{node.__name__} needs asyncio, but runs on Trio: give its class runs_in = "asyncio"')


def why_no_retry(node: type[BaseNode], error: BaseException) -> str:
    """Return why ``error`` is not retried, for its text; empty if the retry policy applies.

    One error in a group is enough: the others may only be consequences of the cancellation that it caused.
    """
    exceptions = node.no_retry if isinstance(node.no_retry, tuple) else ()  # a node may have replaced it
    for part in (error, *leaves(error)):
        if isinstance(part, NoRetry):
            return _not_retried(f"{node.__name__} raised {type(part).__name__}")
        if isinstance(part, ChildFailed):
            return _not_retried("the nodes of the child were")
        for listed in exceptions:
            if isinstance(part, listed):
                return _not_retried(f"{node.__name__}.no_retry has {listed.__name__}")
        if _is_typo(node, part):
            return _not_retried("the code of the node has to be corrected")
    return ""


def _is_typo(node: type[BaseNode], error: BaseException) -> bool:
    """Whether ``error`` is about a wrong name in the code, which each attempt would find wrong.

    Not an UnboundLocalError, or an AttributeError of any other object: these may come from what a service
    answered. Nor an ImportError: another runtime may have the module.
    """
    if type(error) is AttributeError:
        kind = type(error.obj)
        models = (node.Inputs, node.Outputs, node.Secrets, checkpoint_class_of(node))
        return any(kind is own for own in (node, *models))
    return type(error) is NameError


def _not_retried(why: str) -> str:
    # Not "was not retried": v0 cannot be told, and applies the policy.
    return f"not to be retried: {why}"


def invalid_values(head: str, problems: Iterable[str], why: str, redactor: Redactor = NO_SECRETS) -> Errored:
    """Return the error for values that do not fit, which is not retried."""
    text = "\n  ".join([head, *problems])
    return Errored(bounded(redactor.redact(f"{text}\n{_not_retried(why)}")), retry=False)


def signalled(signal: Signal) -> Report:
    """Return what a node requested by a signal."""
    match signal:
        case PruneSignal():
            try:  # plain data, also from a worker process
                return Pruned(decode(encode(dict(signal.data))))
            except NotJson as error:
                raise ValueError(f"PruneSignal: its data cannot be sent as JSON: {error}") from error
        case ReQueueAfterSignal():
            delay = signal.delay.total_seconds()
            if not 0 < delay <= from_ms(MAX_DELAY_MS):
                return Errored(f"ReQueueAfterSignal: needs a delay above 0, up to 10 years: {signal.delay}")
            return Requeued(delay)
        case WaitForEvent():
            timeout = None if signal.timeout is None else signal.timeout.total_seconds()
            if timeout is not None and not 0 < timeout <= from_ms(MAX_DELAY_MS):
                return Errored(f"WaitForEvent: needs a timeout above 0, up to 10 years: {signal.timeout}")
            return Waiting(signal.event, timeout)
        case CallChildren():
            return Calling(signal.calls)
    known = "PruneSignal, ReQueueAfterSignal, WaitForEvent or HandOver"
    raise TypeError(f"{type(signal).__name__} is not a {known}") from signal


def returned(instance: BaseNode, value: object) -> Outcome:
    node = type(instance)
    if instance._calls is not None and (unread := instance._calls.unread):
        return invalid_values(unread, (), "the code of the node has to be corrected")
    if value is None:
        return Executed([])
    values: Sequence[object] = value if isinstance(value, list | tuple) else [value]
    outputs: list[BaseModel] = []
    for position, item in enumerate(values):
        if not isinstance(item, node.Outputs):
            where = f"item {position} of what" if values is value else "what"
            kind = type(item).__qualname__
            if isinstance(item, BaseModel):
                kind = f"{kind} of another class"
            return invalid_values(
                f"{where} {node.__name__}.execute returned is a {kind}, not {node.__name__}.Outputs: "
                "return one Outputs, a list of them, or None",
                (),
                "the code of the node has to be corrected",
            )
        outputs.append(item)
    fields = fields_of(node.Outputs)
    try:
        texts = [item.model_dump() if fields is None else fields.encode(item) for item in outputs]
        problems = [
            f"{name}: it has a lone surrogate, as the name of a file that is not UTF-8, and cannot be sent"
            for each in texts
            for name, text in each.items()
            if isinstance(text, str) and not text.isascii() and sendable(text) != text
        ]
        if not problems:
            return Executed(texts)
    except FieldsInvalid as error:
        problems = list(error.problems)
    head = f"what {node.__name__}.execute returned does not fit {node.__name__}.Outputs:"
    return invalid_values(head, problems, "the code of the node has to be corrected")
