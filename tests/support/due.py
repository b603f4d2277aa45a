"""Do what is due about waits, children, alerts and old runs at a moment that a test chooses."""

from __future__ import annotations

from functools import partial

from exotrio.manager import Service
from exotrio.manager.background import Handles
from exotrio.manager.engine import retention
from exotrio.manager.engine.alerts import start_alerts
from exotrio.manager.engine.child_cancellation import cancel_children
from exotrio.manager.engine.children import deliver_ends, start_children
from exotrio.manager.engine.due_work import Step, due_work
from exotrio.manager.engine.portions import go_on
from exotrio.manager.engine.sending import handle_waits
from exotrio.manager.engine.unfinished import ARE_ROWS
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

CHILDREN = (Step.CANCEL, Step.DELIVER, Step.START)
MANY = 1_000


def use_cases(service: Service) -> dict[Step, Handles]:
    """Return what does each step."""
    return {
        Step.ALERT: start_alerts,
        Step.CANCEL: cancel_children,
        Step.DELIVER: deliver_ends,
        Step.GO_ON: go_on,
        Step.START: partial(start_children, cipher=service.cipher),
        Step.WAIT: handle_waits,
    }


async def handle_due(service: Service, *steps: Step) -> int:
    """Do some of what is due, in a transaction for each step, and return how much was handled."""
    count = 0
    for step in steps:
        due: dict[Step, list[int]] = await service.store.read(due_work, (step,))
        for numbers in due.values():
            count += await service.store.write(use_cases(service)[step], numbers)
    return count


def unfinished(view: View) -> list[str]:
    """Return the keys of the rows that say how far the changes are that go on in portions."""
    rows = view.execute(f"SELECT key FROM meta WHERE {ARE_ROWS} ORDER BY key")
    return [key for (key,) in rows]


def discard(tx: Transaction, keep_ms: int) -> int:
    """Delete the rows of runs that are old enough and return how many that were."""
    due = due_work(tx, (Step.DISCARD,), MANY, keep_ms)
    return retention.discard(tx, due.get(Step.DISCARD, []), keep_ms=keep_ms)


def clear(tx: Transaction) -> int:
    """Delete some of the rows of discarded runs; return 0 if there are none."""
    return retention.clear(tx, due_work(tx, (Step.CLEAR,), MANY).get(Step.CLEAR, []))
