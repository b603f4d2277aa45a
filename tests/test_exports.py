"""What ``import exotrio`` gives, and what it must not load."""

from __future__ import annotations

import subprocess
import sys

import exotrio

NAMES = """
BaseNode ConfigurationError CronTrigger DatabaseBusy DatabaseError DatabaseTooNew ExotrioError Graph
GraphInvalid GraphNodeModel KeyRefused LifecycleError ManagerError ManagerUnavailable NotFound Phase
ProblemsError PruneSignal ReQueueAfterSignal RequestRefused RetryPolicyModel RetryStrategyEnum
Runtime StateManager Stopping StoreConfigModel Summary UnitesModel UnitesStrategyEnum
"""


def test_the_public_names_are_these() -> None:
    assert sorted(exotrio.__all__) == sorted(NAMES.split())
    for name in exotrio.__all__:
        assert getattr(exotrio, name)


def test_importing_exotrio_loads_nothing_heavy() -> None:
    heavy = ("httpx", "cryptography", "pydantic_settings", "click", "rich", "starlette", "asyncio", "sqlite3")
    code = (
        "import sys, exotrio, exotrio.testing; "
        f"print([m for m in {heavy!r} if m in sys.modules], "
        "[m for m in sys.modules if m.startswith(('exotrio.manager', 'exotrio.cli'))])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout == "[] []\n"
