"""``run_node``: one node, as a runtime would run it."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import trio

from exotrio._execution.executor import Executor
from exotrio._execution.handle import Execution, execution_context
from exotrio._fields.models import Values, checkpoint_of_text, texts_of
from exotrio._link.port import Claim
from exotrio._nodes.base import BaseNode, checkpoint_class_of, runs_in_of
from exotrio._nodes.checks import node_problems
from exotrio._nodes.outcome import AwaitedEvent, Calling, CheckpointText, ChildCall, ChildResult, Report
from exotrio._util.exceptions import ungrouped
from exotrio._util.json import encode
from exotrio.errors import ChildFailed, ConfigurationError


async def run_node(
    node: type[BaseNode],
    inputs: Values | None = None,
    *,
    secrets: Mapping[str, str] | None = None,
    checkpoint: Values | None = None,
    event: AwaitedEvent | None = None,
    children: Callable[[str, Mapping[str, str]], Values] | None = None,
    grace: float | None = None,
) -> Report:
    """Run one node as a runtime would, and return what would be reported.

    Args:
        inputs: An instance of its ``Inputs``, or a dict of values or their texts. Defaults to none.
        secrets: Its secrets. Defaults to none.
        checkpoint: What an earlier execution stored: an instance of its ``Checkpoint``, or a dict as for
            ``inputs``. Defaults to nothing.
        event: What ``self.event`` is: ``AwaitedEvent("paid", {"sum": "12"})``; without a value if the timeout
            is over. Defaults to None: it is the first execution.
        children: Stands for the graphs that it calls: called once for each child with the name of its graph
            and its inputs as texts, it returns the outputs of the child, or raises ``ChildFailed``; then the
            node is executed again. Defaults to None: the outcome is ``Calling``.
        grace: Seconds that the node has, since the runtime stops; then it is cancelled. Defaults to None: the
            runtime does not stop.

    Returns:
        ``Executed``, ``Errored`` with the text of the error (secrets masked), ``Pruned``, ``Requeued``,
        ``Waiting``, ``Calling``, ``HandedOver``, or ``Released`` if the grace was over before the node ended.
        What the node raises is not raised here. ``outputs_of(node)`` of it returns the outputs as ``Outputs``
        of the class, and raises if there are none; ``Executed.outputs`` has them as the texts that would be
        reported. ``checkpoint_of(node)`` returns the newest ``Checkpoint`` that the node set.

    Raises:
        ConfigurationError: the class is not usable as a node, or a value not as an input or a checkpoint;
            ``problems`` says why. A text that does not fit is an error of the node.

    Cancellation:
        Cancels the node; there is no outcome then.
    """
    if problems := node_problems([node]):
        raise ConfigurationError("the class cannot be used as a node", problems)

    async def fetch_secrets(claim: Claim) -> Mapping[str, str]:
        return secrets or {}

    claim = Claim(
        state_id="test",
        node_name=node.__name__,
        identifier=node.__name__,
        inputs=texts_of("inputs", inputs, node.Inputs),
        checkpoint=None if checkpoint is None else stored_checkpoint(node, checkpoint),
        event=event,
    )
    execution = Execution(claim)

    async def stop_after(grace: float) -> None:
        await trio.sleep(grace)
        execution.cancel()

    with ungrouped():  # a Ctrl-C of the application
        async with (
            aclosing(Executor(nodes={node.__name__: node}, fetch_secrets=fetch_secrets)) as executor,
            trio.open_nursery() as nursery,
        ):
            if grace is not None:
                execution.drain(trio.current_time() + grace)
                nursery.start_soon(stop_after, grace)
            report = await executor.run(execution)
            while children is not None and isinstance(report, Calling):
                results = {call.id: _result(children, call) for call in report.calls}
                claim = replace(
                    claim,
                    checkpoint=_newest(execution) or claim.checkpoint,
                    children={**(claim.children or {}), **results},
                )
                execution = Execution(claim)
                report = await executor.run(execution)
            nursery.cancel_scope.cancel()
    return report if execution.checkpoint is None else replace(report, checkpoint=_newest(execution))


def _newest(execution: Execution) -> CheckpointText | None:
    return None if execution.checkpoint is None else execution.checkpoint.unconfirmed


def _result(children: Callable[[str, Mapping[str, str]], Values], call: ChildCall) -> ChildResult:
    try:
        outputs = texts_of(f"outputs of {call.graph!r}", children(call.graph, call.inputs))
    except ChildFailed as failed:
        return ChildResult("test", error=str(failed))
    return ChildResult("test", outputs=outputs)


def stored_checkpoint(node: type[BaseNode], value: Values) -> CheckpointText:
    """Return a value as what an earlier execution of a node stored.

    Raises:
        ConfigurationError: the node has no checkpoint, or the value has no form as text.
    """
    model = checkpoint_class_of(node)
    if model is None:
        raise ConfigurationError(
            f"{node.__name__} has no checkpoint", fix="define class Checkpoint(BaseModel) in it"
        )
    return CheckpointText(1, encode(texts_of("values of the checkpoint", value, model)).decode())


def continuing(node: type[BaseNode], stored: Mapping[str, CheckpointText]) -> type[BaseNode]:
    """Return a class that does what ``node`` does, from a checkpoint at the first execution of each state.

    Args:
        stored: Identifier of the graph's node to what it begins with.

    Raises:
        ConfigurationError: the node runs in a process, which could not import this class.
    """
    if runs_in_of(node) == "process":
        raise ConfigurationError(
            f"{node.__name__} runs in a process: run_graph cannot give it a checkpoint", fix="use run_node"
        )

    model = checkpoint_class_of(node)
    assert model is not None, "it has a checkpoint"

    def begin(self: Any) -> None:
        execution = execution_context.get()
        assert execution is not None, "a node runs for a state"
        if execution.claim.checkpoint is None and (value := stored.get(execution.claim.identifier)):
            self.checkpoint = checkpoint_of_text(model, value.value)

    async def execute_in_loop(self: BaseNode) -> object:
        begin(self)
        return await node.execute(self)

    def execute(self: BaseNode) -> object:
        begin(self)
        return node.execute(self)

    return derived(node, execute=execute_in_loop if inspect.iscoroutinefunction(node.execute) else execute)


def derived(node: type[BaseNode], **attributes: object) -> type[BaseNode]:
    """Return a class like ``node``, also in messages, but with these attributes."""
    attributes |= {name: getattr(node, name) for name in ("__module__", "__qualname__", "__doc__")}
    return types.new_class(node.__name__, (node,), exec_body=lambda body: body.update(attributes))
