"""``run_node``: one node, as a runtime would run it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing

from exotrio._execution.executor import Executor
from exotrio._execution.handle import Execution
from exotrio._link.port import Claim
from exotrio._nodes.base import BaseNode
from exotrio._nodes.checks import node_problems
from exotrio._nodes.outcome import Outcome
from exotrio.errors import ConfigurationError


async def run_node(
    node: type[BaseNode],
    inputs: Mapping[str, str] | None = None,
    *,
    secrets: Mapping[str, str] | None = None,
) -> Outcome:
    """Run one node as a runtime would, and return what would be reported.

    Args:
        node: The node class.
        inputs: Its inputs as text; ``to_text`` encodes typed ones. Defaults to none.
        secrets: Its secrets. Defaults to none.

    Returns:
        ``Executed`` with the outputs as text, ``Errored`` with the text of the error (secrets masked),
        ``Pruned`` or ``Requeued``. What the node raises is not raised here.

    Raises:
        ConfigurationError: the class is not usable as a node; ``problems`` says why.

    Cancellation:
        Cancels the node; there is no outcome then.
    """
    if problems := node_problems([node]):
        raise ConfigurationError("the class cannot be used as a node", problems)

    async def fetch_secrets(claim: Claim) -> Mapping[str, str]:
        return secrets or {}

    claim = Claim(state_id="test", node_name=node.__name__, identifier=node.__name__, inputs=inputs or {})
    async with aclosing(Executor(nodes={node.__name__: node}, fetch_secrets=fetch_secrets)) as executor:
        report = await executor.run(Execution(claim))
    assert isinstance(report, Outcome), "only a runtime that stops releases a state"
    return report
