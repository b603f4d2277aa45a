"""``python -m tests.chaos.state_manager ...`` is ``python -m exotrio ...`` with what campaigns need.

That is a wall clock that can be set, and less time for a PostgreSQL that hangs: a campaign takes minutes.
"""

from __future__ import annotations

import os

from tests.chaos import clock

STATEMENT_LIMIT = "CHAOS_STATEMENT_LIMIT"
"""Seconds that PostgreSQL lets a statement take."""

if __name__ == "__main__":
    if clock.VARIABLE in os.environ:
        clock.install(os.environ[clock.VARIABLE])
    if STATEMENT_LIMIT in os.environ:
        from exotrio.manager.store.postgres import connection

        connection.STATEMENT_LIMIT = float(os.environ[STATEMENT_LIMIT])
        connection.ANSWER_MARGIN = 1.0

    from exotrio.cli import main

    main()
