"""Helpers for testing your own nodes: no state manager, no network.

::

    async def test_greets():
        outcome = await run_node(Greet, {"name": "Ada"})
        assert outcome == Executed([{"text": "Hello, Ada"}])
"""

from __future__ import annotations

from collections.abc import Mapping

from exotrio._beside import Beside
from exotrio._errors import ConfigurationError
from exotrio._execution import Execution, Executor
from exotrio._link import Claim
from exotrio._node import BaseNode, node_problems
from exotrio._outcome import Errored, Executed, Outcome, Pruned, Requeued

__all__ = ["Errored", "Executed", "Outcome", "Pruned", "Requeued", "run_node"]


async def run_node(
    node: type[BaseNode],
    inputs: Mapping[str, str] | None = None,
    *,
    secrets: Mapping[str, str] | None = None,
) -> Outcome:
    """Run one node as a runtime would, and return what would be reported.

    Args:
        node: The node class.
        inputs: Its inputs as they travel, as text; ``to_text`` makes it of typed ones. Defaults to none.
        secrets: Its secrets. Defaults to none.

    Returns:
        ``Executed`` with the outputs as text, ``Errored`` with the text of the error (secrets masked),
        ``Pruned`` or ``Requeued``. What the node raises is not raised here.

    Raises:
        ConfigurationError: the class is not usable as a node; ``problems`` says why.

    Cancellation:
        Cancels the node and goes on as Cancelled: there is no outcome then.
    """
    if problems := node_problems([node]):
        raise ConfigurationError("this is not usable as a node", problems)

    async def fetch_secrets(claim: Claim) -> Mapping[str, str]:
        return secrets or {}

    claim = Claim(state_id="test", node_name=node.__name__, identifier=node.__name__, inputs=inputs or {})
    async with Beside() as beside:
        outcome = await Executor({node.__name__: node}, fetch_secrets, beside).run(claim, Execution())
    assert outcome is not None, "only the runtime's own cancel hands a state back, and nobody called it"
    return outcome
