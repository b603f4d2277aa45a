"""``python -m tests.support.later_release ...`` is ``python -m exotrio ...`` of the release after this one.

Its tables have more columns, of the kind that statements written before do not know, and one table more.
"""

from __future__ import annotations

from exotrio.manager.store import migrations, schema

EXPAND = (
    "ALTER TABLE states ADD COLUMN later INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE runs ADD COLUMN later TEXT;"
    "ALTER TABLE nodes ADD COLUMN later TEXT;"
    "ALTER TABLE workers ADD COLUMN later TEXT NOT NULL DEFAULT '';"
    "CREATE TABLE later (id INTEGER PRIMARY KEY, value TEXT NOT NULL);"
)


def become_later() -> None:
    """Change this process, before anything has taken over what ``schema`` says."""
    migrations.MIGRATIONS[schema.VERSION] = EXPAND
    schema.VERSION += 1


if __name__ == "__main__":
    become_later()

    from exotrio.cli import main

    main()
