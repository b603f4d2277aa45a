"""``run_node``: one node, as a runtime would run it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing

from exotrio._execution.executor import Executor
from exotrio._execution.handle import Execution
from exotrio._fields.models import Values, texts_of
from exotrio._link.port import Claim
from exotrio._nodes.base import BaseNode
from exotrio._nodes.checks import node_problems
from exotrio._nodes.outcome import HandedOver, Outcome
from exotrio.errors import ConfigurationError


async def run_node(
    node: type[BaseNode],
    inputs: Values | None = None,
    *,
    secrets: Mapping[str, str] | None = None,
) -> Outcome | HandedOver:
    """Run one node as a runtime would, and return what would be reported.

    Args:
        node: The node class.
        inputs: An instance of its ``Inputs``, or a dict of values or their texts. Defaults to none.
        secrets: Its secrets. Defaults to none.

    Returns:
        ``Executed``, ``Errored`` with the text of the error (secrets masked), ``Pruned``, ``Requeued`` or
        ``HandedOver``.
        What the node raises is not raised here. ``outputs_of(node)`` of it returns the outputs as ``Outputs``
        of the class, and raises if there are none; ``Executed.outputs`` has them as the texts that would be
        reported.

    Raises:
        ConfigurationError: the class is not usable as a node, or a value not as an input; ``problems`` says
            why. A text that does not fit is an error of the node.

    Cancellation:
        Cancels the node; there is no outcome then.
    """
    if problems := node_problems([node]):
        raise ConfigurationError("the class cannot be used as a node", problems)

    async def fetch_secrets(claim: Claim) -> Mapping[str, str]:
        return secrets or {}

    texts = texts_of("inputs", inputs, node.Inputs)
    claim = Claim(state_id="test", node_name=node.__name__, identifier=node.__name__, inputs=texts)
    async with aclosing(Executor(nodes={node.__name__: node}, fetch_secrets=fetch_secrets)) as executor:
        report = await executor.run(Execution(claim))
    assert isinstance(report, Outcome | HandedOver), "only a runtime that stops releases a state"
    return report
