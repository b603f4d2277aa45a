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

MIGRATIONS: dict[int, str] = {
    # Business keys of runs; pausing of nodes and schedules; traces; schedules with a time zone; trends; log
    # lines. Managers of version 1 know none of these.
    1: """
ALTER TABLE nodes ADD COLUMN paused_at INTEGER;
ALTER TABLE graphs ADD COLUMN paused_at INTEGER;
ALTER TABLE runs ADD COLUMN key TEXT;
ALTER TABLE runs ADD COLUMN key_digest TEXT;
ALTER TABLE runs ADD COLUMN origin TEXT;
CREATE UNIQUE INDEX runs_by_key ON runs (key, graph) WHERE key IS NOT NULL;
ALTER TABLE states ADD COLUMN trace TEXT;
DROP INDEX states_held;
DROP INDEX states_leased;
DROP INDEX states_inside;
DROP INDEX states_queued;
CREATE INDEX states_held ON states (run, place, lease_until, claim) WHERE status = 'QUEUED';
ALTER TABLE managers ADD COLUMN host TEXT;
CREATE TABLE zoned_schedules (
    graph INTEGER NOT NULL,
    expression TEXT NOT NULL,
    next_at INTEGER NOT NULL,
    PRIMARY KEY (graph, expression)
) WITHOUT ROWID;
CREATE INDEX zoned_schedules_by_time ON zoned_schedules (next_at);
CREATE TABLE trends (
    node_id INTEGER NOT NULL,
    width INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    graph INTEGER NOT NULL,
    status TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (node_id, width, slot, graph, status, bucket)
) WITHOUT ROWID;
CREATE INDEX trends_by_graph ON trends (graph, width, slot);
CREATE TABLE logs (state INTEGER PRIMARY KEY, lines TEXT NOT NULL);
""",
    # One table for all schedules in place of two; what ended is counted in trends only.
    2: """
CREATE TABLE cron_triggers (
    graph INTEGER NOT NULL,
    expression TEXT NOT NULL,
    next_at INTEGER NOT NULL,
    PRIMARY KEY (graph, expression)
) WITHOUT ROWID;
INSERT INTO cron_triggers SELECT graph, expression, next_at FROM schedules;
INSERT INTO cron_triggers SELECT graph, expression, next_at FROM zoned_schedules;
CREATE INDEX cron_triggers_by_time ON cron_triggers (next_at);
DROP TABLE schedules;
DROP TABLE zoned_schedules;
INSERT INTO trends SELECT node_id, width, minute / width, 0, status, bucket, sum(count)
    FROM tallies CROSS JOIN (SELECT 1 AS width UNION ALL SELECT 15 UNION ALL SELECT 120) AS widths
    WHERE (width > 1 OR minute > (SELECT max(minute) - 120 FROM tallies)) AND NOT EXISTS (
        SELECT 1 FROM trends WHERE trends.node_id = tallies.node_id AND trends.width = widths.width
        AND slot = minute / widths.width)
    GROUP BY node_id, width, minute / width, status, bucket;
DROP TABLE tallies;
""",
    # United nodes that run again; idle times of runs; since when a state fails; further outputs, counted;
    # when execute begins. Earlier managers run united nodes again, too, but do not know which state the new
    # one replaces.
    3: """
ALTER TABLE unite_counters ADD COLUMN replaced INTEGER;
CREATE TABLE idle_times (
    run INTEGER NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY (run, since)
) WITHOUT ROWID;
ALTER TABLE states ADD COLUMN failed_since INTEGER;
ALTER TABLE counts ADD COLUMN further INTEGER NOT NULL DEFAULT 0;
ALTER TABLE states ADD COLUMN begun_at INTEGER;
ALTER TABLE states ADD COLUMN ran_ms INTEGER;
ALTER TABLE workers ADD COLUMN slots INTEGER NOT NULL DEFAULT 0;
""",
    # Receipts of stops; checkpoints; how long states waited. Earlier managers write no receipts, and do not
    # count how long states waited. They neither return nor erase checkpoints, and do not move them to the
    # next attempt.
    4: """
ALTER TABLE workers ADD COLUMN beat_at INTEGER;
ALTER TABLE workers ADD COLUMN lease_until INTEGER;
ALTER TABLE workers ADD COLUMN manager TEXT;
CREATE INDEX workers_by_lease ON workers (lease_until) WHERE lease_until IS NOT NULL;
CREATE TABLE stops (
    id INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    worker_id TEXT NOT NULL,
    ended_at INTEGER NOT NULL,
    receipt TEXT NOT NULL,
    UNIQUE (namespace, worker_id)
);
CREATE INDEX stops_by_time ON stops (ended_at);
ALTER TABLE states ADD COLUMN checkpoint_size INTEGER;
CREATE TABLE checkpoints (
    state INTEGER PRIMARY KEY,
    token TEXT NOT NULL,
    number INTEGER NOT NULL,
    value TEXT NOT NULL,
    at INTEGER NOT NULL
);
CREATE TABLE waiting_trends (
    node_id INTEGER NOT NULL,
    width INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    stage TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (node_id, width, slot, stage, bucket)
) WITHOUT ROWID;
""",
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
    7: """
ALTER TABLE runs ADD COLUMN parent_run INTEGER;
DROP INDEX runs_by_template;
CREATE INDEX runs_by_template ON runs (template, finished_at);
ALTER TABLE runs ADD COLUMN parent_state INTEGER;
ALTER TABLE runs ADD COLUMN call TEXT;
ALTER TABLE runs ADD COLUMN depth INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN round INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN awaited INTEGER NOT NULL DEFAULT 0;
CREATE UNIQUE INDEX runs_by_parent ON runs (parent_state, call) WHERE parent_state IS NOT NULL;
CREATE INDEX runs_by_parent_run ON runs (parent_run, id) WHERE parent_run IS NOT NULL;
CREATE INDEX runs_to_deliver ON runs (id) WHERE awaited = 1 AND finished_at IS NOT NULL;
CREATE TABLE abandoned (state INTEGER PRIMARY KEY);
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
""",
}
"""What leads from a version to the next one, as SQL. Each step runs in one transaction."""
