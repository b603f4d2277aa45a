"""How older tables come to the version of ``schema``.

To change a table: change it in ``schema`` or ``participants``, add one to ``VERSION``, and put into
``MIGRATIONS`` what makes a file of the version before the same as a new one. On PostgreSQL, state managers of
the version before continue to work meanwhile and afterwards, so tables are changed in two releases:

1. Expand: add tables, and columns that may be NULL or have a default. ``OLDEST`` stays.
2. Contract, a release later: remove what only the release before the last one used, and set ``OLDEST`` to the
   version of the last one. Such a step waits until no older state manager is left.

A step blocks all who work on the tables that it changes, so it must not take long.
"""

from __future__ import annotations

from exotrio.errors import DatabaseError

MIGRATIONS: dict[int, str] = {
    # Order of claims: priorities and turns. Limits. Earlier managers know none of them. What only managers of
    # versions 2 and 3 used is removed.
    5: """
DROP VIEW IF EXISTS schedules;
DROP VIEW IF EXISTS zoned_schedules;
DROP TABLE IF EXISTS tallies;
DROP TABLE wrong_keys;
ALTER TABLE runs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN share INTEGER NOT NULL DEFAULT 1000000;
ALTER TABLE runs ADD COLUMN fair_key TEXT;
ALTER TABLE states ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE states ADD COLUMN turn INTEGER NOT NULL DEFAULT 0;
ALTER TABLE states ADD COLUMN limits TEXT;
ALTER TABLE states ADD COLUMN lane TEXT;
ALTER TABLE workers ADD COLUMN run_id TEXT;
ALTER TABLE counts ADD COLUMN turn INTEGER NOT NULL DEFAULT 0;
UPDATE states SET lane = 'later' WHERE status = 'CREATED' AND enqueue_after > updated_at;
DROP INDEX states_ready_by_run;
CREATE INDEX states_by_turn ON states (node_id, priority, turn, seq)
    WHERE status = 'CREATED' AND lane IS NULL;
CREATE INDEX states_by_turn_in_run ON states (run, node_id, priority, turn, seq)
    WHERE status = 'CREATED' AND lane IS NULL;
CREATE INDEX states_aside ON states (node_id, lane, enqueue_after, seq)
    WHERE status = 'CREATED' AND lane IS NOT NULL;
CREATE INDEX states_aside_in_run ON states (run, node_id, lane, enqueue_after, seq)
    WHERE status = 'CREATED' AND lane IS NOT NULL;
CREATE TABLE turns (
    node_id INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    fair_key TEXT NOT NULL,
    turn INTEGER NOT NULL,
    PRIMARY KEY (node_id, priority, fair_key)
) WITHOUT ROWID;
CREATE INDEX turns_by_turn ON turns (node_id, priority, turn);
ALTER TABLE nodes ADD COLUMN limits TEXT;
CREATE INDEX states_lanes ON states (lane, node_id, priority, turn, seq)
    WHERE status = 'CREATED' AND lane IS NOT NULL;
CREATE TABLE limits (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    at_most INTEGER,
    starts INTEGER,
    period_ms INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (namespace, name)
);
CREATE TABLE slots (
    limit_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    state INTEGER NOT NULL,
    check_at INTEGER,
    PRIMARY KEY (limit_id, key, state)
) WITHOUT ROWID;
CREATE INDEX slots_to_check ON slots (limit_id, check_at) WHERE check_at IS NOT NULL;
CREATE TABLE starts (
    limit_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    slot INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (limit_id, key, slot)
) WITHOUT ROWID;
""",
    # Named keys. Earlier managers do not know them: they refuse them, and what they claim is the root key's.
    # Secrets that a node declared before: earlier managers give it those that it declares.
    # Events that runs wait for: to earlier managers, a state that waits for one is CREATED, in a lane from
    # which they claim nothing.
    # The record of changes, and who started a run: earlier managers record nothing.
    # Managers of version 5 claimed by the index that is removed.
    6: """
DROP INDEX IF EXISTS states_ready;
ALTER TABLE nodes ADD COLUMN kept_secrets TEXT;
ALTER TABLE states ADD COLUMN owner TEXT;
ALTER TABLE states ADD COLUMN event TEXT;
ALTER TABLE runs ADD COLUMN events INTEGER NOT NULL DEFAULT 0;
CREATE INDEX states_waiting ON states (run, event, place, seq) WHERE lane = 'waiting' AND status = 'CREATED';
CREATE INDEX states_deadlines ON states (enqueue_after, seq)
    WHERE lane = 'waiting' AND status = 'CREATED' AND enqueue_after < 200000000000000;
CREATE TABLE mailbox (
    run INTEGER NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    sent_at INTEGER NOT NULL,
    PRIMARY KEY (run, name)
) WITHOUT ROWID;
CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    used_at INTEGER
) WITHOUT ROWID;
ALTER TABLE runs ADD COLUMN started_by TEXT;
CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    key_id TEXT,
    who TEXT NOT NULL,
    address TEXT NOT NULL,
    request_id TEXT NOT NULL,
    action TEXT NOT NULL,
    namespace TEXT NOT NULL,
    target TEXT NOT NULL,
    result TEXT NOT NULL
);
CREATE INDEX audit_by_target ON audit (target, id);
""",
    # Graphs that run graphs. Earlier managers do not start the runs of states or cancel them with the states;
    # managers of this version start and deliver what earlier ones leave.
    # Runs that are started when another one ends with errors: a graph that asks for them is refused while
    # a state manager works that would not start them.
    # Versions of code. Earlier managers know them by the names of nodes, which is enough to keep to them.
    7: """
ALTER TABLE runs ADD COLUMN parent_run INTEGER;
DROP INDEX runs_by_template;
CREATE INDEX runs_by_template ON runs (template, finished_at);
ALTER TABLE runs ADD COLUMN parent_state INTEGER;
ALTER TABLE runs ADD COLUMN call TEXT;
ALTER TABLE runs ADD COLUMN depth INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN round INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN awaited INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN root INTEGER;
CREATE UNIQUE INDEX runs_by_parent ON runs (parent_state, call) WHERE parent_state IS NOT NULL;
CREATE INDEX runs_by_parent_run ON runs (parent_run, id) WHERE parent_run IS NOT NULL;
CREATE INDEX runs_to_deliver ON runs (id) WHERE awaited = 1 AND finished_at IS NOT NULL;
CREATE TABLE children_to_cancel (state INTEGER PRIMARY KEY);
CREATE TABLE alerts (
    run INTEGER NOT NULL,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    state INTEGER NOT NULL,
    started TEXT,
    problem TEXT,
    PRIMARY KEY (run, number)
) WITHOUT ROWID;
CREATE INDEX alerts_due ON alerts (at, run) WHERE started IS NULL AND problem IS NULL;
CREATE INDEX alerts_refused ON alerts (at, run) WHERE problem IS NOT NULL;
ALTER TABLE templates ADD COLUMN version TEXT;
CREATE INDEX templates_by_version ON templates (version) WHERE version IS NOT NULL;
CREATE INDEX runs_by_root ON runs (root) WHERE root IS NOT NULL AND pending > 0;
ALTER TABLE states ADD COLUMN calls_size INTEGER;
CREATE TABLE calls (
    state INTEGER NOT NULL,
    key TEXT NOT NULL,
    graph TEXT NOT NULL,
    inputs TEXT NOT NULL,
    run TEXT,
    outputs TEXT,
    error TEXT,
    PRIMARY KEY (state, key)
) WITHOUT ROWID;
""",
}
"""What leads from a version to the next one, as SQL. Each step runs in one transaction."""
EARLIEST = min(MIGRATIONS)


def check_version(version: int, where: str) -> None:
    """Check that no step is missing.

    Raises:
        DatabaseError: the version is too early.
    """
    if version < EARLIEST:
        raise DatabaseError(
            f"{where} has tables of version {version}; this exotrio migrates those of {EARLIEST} or later",
            fix="open it once with an exotrio that migrates both, or begin with another database",
        )
