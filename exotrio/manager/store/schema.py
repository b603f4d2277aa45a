"""The tables of a state manager's database, and their version. How older ones come to it: ``migrations``.

``WORK`` has the tables of nodes, graphs, runs and states; ``participants`` has those of runtimes, state
managers and callers.

Rows refer to each other by numbers: a state to its run, to its *place* (the position of a node in the run's
template) and to its *node_id* (a registered node). ``seq`` is both the key of a state and the end of its
public id, so finding a state by id needs no other index.

It is written for SQLite, and translated for PostgreSQL (``postgres.translation``): whole numbers have 64
bits, text sorts by its bytes, and every other word must mean the same there. An index that statements read in
the order of ``seq`` has to name it: only SQLite's have it anyway. The conditions of partial indexes stand
word for word in the statements that use them.
"""

from __future__ import annotations

from exotrio.manager.store.participants import PARTICIPANTS

VERSION = 8
OLDEST = 6
"""The oldest version whose managers can work on these tables, too (on PostgreSQL, during an update)."""

WORK = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE nodes (
    id INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    runtime_name TEXT NOT NULL,
    inputs_schema TEXT NOT NULL,
    outputs_schema TEXT NOT NULL,
    secrets TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    paused_at INTEGER,                   -- since when its states are not claimed, if so
    limits TEXT,                         -- that places with this node ever named: JSON list of ids
    kept_secrets TEXT,                   -- given to it besides those that it declares: JSON list of names
    UNIQUE (namespace, name)
);

CREATE TABLE graphs (
    id INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    template INTEGER NOT NULL,           -- the current one; runs keep theirs
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    paused_at INTEGER,                   -- since when its schedule triggers nothing, if so
    UNIQUE (namespace, name)
);

CREATE TABLE templates (
    id INTEGER PRIMARY KEY AUTOINCREMENT,   -- never reused: the catalog keeps templates by it
    graph INTEGER NOT NULL,
    body TEXT NOT NULL,                  -- GraphBody without its secrets
    validation_status TEXT NOT NULL,
    validation_errors TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    version TEXT                         -- of the code that its runs need; NULL: any
);
CREATE INDEX templates_by_graph ON templates (graph);
CREATE INDEX templates_by_version ON templates (version) WHERE version IS NOT NULL;

CREATE TABLE secrets (
    graph INTEGER NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,                 -- encrypted (store.cipher)
    PRIMARY KEY (graph, name)
) WITHOUT ROWID;

-- When a graph is to be triggered next, for each distinct schedule (_util.cron) of its current template.
CREATE TABLE cron_triggers (
    graph INTEGER NOT NULL,
    expression TEXT NOT NULL,            -- with its time zone before it, if it has one
    next_at INTEGER NOT NULL,
    PRIMARY KEY (graph, expression)
) WITHOUT ROWID;
CREATE INDEX cron_triggers_by_time ON cron_triggers (next_at);

CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,   -- never reused: rows of a discarded run have it
    run_id TEXT NOT NULL UNIQUE,
    namespace TEXT NOT NULL,
    graph INTEGER NOT NULL,
    template INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    finished_at INTEGER,                 -- when pending last became 0
    cancelled_at INTEGER,
    pending INTEGER NOT NULL DEFAULT 0,  -- CREATED, QUEUED
    success INTEGER NOT NULL DEFAULT 0,  -- SUCCESS, PRUNED
    errored INTEGER NOT NULL DEFAULT 0,  -- ERRORED, NEXT_CREATED_ERROR
    retried INTEGER NOT NULL DEFAULT 0,  -- RETRY_CREATED
    key TEXT,                            -- which its client chose: there is one such run of the graph
    key_digest TEXT,                     -- of the inputs and the store that it was triggered with by that key
    origin TEXT,                         -- what triggered it (engine.triggers); NULL: not known
    -- In which order its states are claimed (engine.order).
    priority INTEGER NOT NULL DEFAULT 0,      -- less than 0: before others
    share INTEGER NOT NULL DEFAULT 1000000,   -- by how much each of its states moves the next one back
    fair_key TEXT,                       -- the runs that share one place in the fair order; NULL: it alone
    events INTEGER NOT NULL DEFAULT 0,   -- in its mailbox
    started_by TEXT,                     -- audit.who of the request that started it; NULL: not known, or none
    parent_run INTEGER,                  -- that started it, by a state or by failing; NULL: none did
    -- Of a run that a state started (engine.children).
    parent_state INTEGER,                -- that state; NULL: none started it
    call TEXT,                           -- which of the runs that it started; '' of a place that runs a graph
    depth INTEGER NOT NULL DEFAULT 0,    -- runs above it
    round INTEGER NOT NULL DEFAULT 0,    -- of these, those of the same graph directly above it
    awaited INTEGER NOT NULL DEFAULT 0,  -- 1: its end has not been delivered to that state
    root INTEGER                         -- the run above which is none; NULL: it is that itself
);
-- By key first: it is looked up without a graph, too.
CREATE UNIQUE INDEX runs_by_key ON runs (key, graph) WHERE key IS NOT NULL;
CREATE INDEX runs_by_time ON runs (namespace, created_at, id);
-- Those in flight are found without the ended ones: by finished_at IS NULL.
CREATE INDEX runs_by_template ON runs (template, finished_at);
CREATE INDEX runs_finished ON runs (finished_at) WHERE finished_at IS NOT NULL;
-- A state starts each of its runs once.
CREATE UNIQUE INDEX runs_by_parent ON runs (parent_state, call) WHERE parent_state IS NOT NULL;
CREATE INDEX runs_by_parent_run ON runs (parent_run, id) WHERE parent_run IS NOT NULL;
-- Those below a run that have not ended.
CREATE INDEX runs_by_root ON runs (root) WHERE root IS NOT NULL AND pending > 0;
CREATE INDEX runs_to_deliver ON runs (id) WHERE awaited = 1 AND finished_at IS NOT NULL;

-- States that ended while they waited for runs, which are to be cancelled.
CREATE TABLE children_to_cancel (state INTEGER PRIMARY KEY);

-- Events that were sent to runs (engine.mailbox): the first value under a name.
CREATE TABLE mailbox (
    run INTEGER NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,                 -- JSON object of texts
    sent_at INTEGER NOT NULL,
    PRIMARY KEY (run, name)
) WITHOUT ROWID;

-- Runs that ended with errors and whose graph names another one by on_failure (engine.alerts): one row for
-- each such end.
CREATE TABLE alerts (
    run INTEGER NOT NULL,
    number INTEGER NOT NULL,             -- 1: its first end with errors
    at INTEGER NOT NULL,
    state INTEGER NOT NULL,              -- the first of its states that had failed then
    started TEXT,                        -- run_id of the run that was started
    problem TEXT,                        -- why none was
    PRIMARY KEY (run, number)
) WITHOUT ROWID;
CREATE INDEX alerts_due ON alerts (at, run) WHERE started IS NULL AND problem IS NULL;
CREATE INDEX alerts_refused ON alerts (at, run) WHERE problem IS NOT NULL;

-- When a run had ended and waited to be retried: that is not part of its duration.
CREATE TABLE idle_times (
    run INTEGER NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY (run, since)
) WITHOUT ROWID;

-- Deleted runs whose rows in other tables are still to be deleted.
CREATE TABLE discarded (run INTEGER PRIMARY KEY);

CREATE TABLE store (
    run INTEGER NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,                 -- as JSON: PostgreSQL's texts cannot have every character
    PRIMARY KEY (run, key)
) WITHOUT ROWID;

CREATE TABLE states (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused: it is part of the public id
    run INTEGER NOT NULL,
    place INTEGER NOT NULL,
    node_id INTEGER NOT NULL,
    status TEXT NOT NULL,
    inputs TEXT NOT NULL,
    outputs TEXT NOT NULL DEFAULT '{}',
    data TEXT,                           -- of a prune
    error TEXT,
    parent INTEGER,                      -- the state that created it; of a united state its target state
    -- 1: created through unites (also its retries, not its siblings); 2: the first such state, which was
    -- replaced since the group is open again.
    united INTEGER NOT NULL DEFAULT 0,
    groups TEXT NOT NULL DEFAULT '',     -- "seq:place" of each united target in its chain
    path BLOB NOT NULL DEFAULT x'',      -- its place in the fan-outs; sorts in their order
    enqueue_after INTEGER NOT NULL,
    retry_count INTEGER NOT NULL DEFAULT 0,
    manual_fanout_id TEXT,               -- of the manual retry it descends from
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    claim TEXT,                          -- id of the native claim that took it last
    token TEXT,                          -- lease token; NULL if last claimed through v0
    worker TEXT,                         -- runtime that claimed it last
    manager TEXT,                        -- the state manager inside whose process it was claimed last, if so
    lease_until INTEGER,                 -- on the clock of leases, ms; NULL: without a limit
    deliveries INTEGER NOT NULL DEFAULT 0,  -- runtimes in a row that were lost while they ran it
    requeued INTEGER NOT NULL DEFAULT 0, -- waits because its node requeued it
    claimed_at INTEGER,
    finished_at INTEGER,
    retry_of INTEGER,                    -- the attempt that it replaces
    begun INTEGER NOT NULL DEFAULT 0,    -- its holder reported that it runs, or never does so
    suspect INTEGER NOT NULL DEFAULT 0,  -- a runtime was lost that held it
    size INTEGER NOT NULL DEFAULT 0,     -- of the inputs, in bytes
    trace TEXT,                          -- W3C trace contexts (rules.lineage), if runtimes trace
    failed_since INTEGER,                -- when the first of the attempts that it replaces failed
    -- When its execute began, and how long it took, as its last holder reported.
    begun_at INTEGER,
    ran_ms INTEGER,
    checkpoint_size INTEGER,             -- of the value in its row of checkpoints, bytes; NULL: it has none
    priority INTEGER NOT NULL DEFAULT 0, -- of its run
    turn INTEGER NOT NULL DEFAULT 0,     -- its place in the fair order among states of that priority
    limits TEXT,                         -- in which it takes part: JSON list of [id, key]; NULL: in none
    lane TEXT,                           -- why it cannot be claimed; NULL: it only waits for its turn
    -- The name of the key that claimed it last; NULL: the root key, or inside a state manager.
    owner TEXT,
    event TEXT,                          -- that it waits for in the lane 'waiting', or did last; NULL: runs
    calls_size INTEGER                   -- of the results in its rows of calls, bytes; NULL: it has none
);
CREATE INDEX states_by_turn ON states (node_id, priority, turn, seq)
    WHERE status = 'CREATED' AND lane IS NULL;
CREATE INDEX states_by_turn_in_run ON states (run, node_id, priority, turn, seq)
    WHERE status = 'CREATED' AND lane IS NULL;
CREATE INDEX states_aside ON states (node_id, lane, enqueue_after, seq)
    WHERE status = 'CREATED' AND lane IS NOT NULL;
CREATE INDEX states_aside_in_run ON states (run, node_id, lane, enqueue_after, seq)
    WHERE status = 'CREATED' AND lane IS NOT NULL;
-- One for all that looks for held states, also by claim or deadline, as a whole then: they are few, and each
-- index takes a twentieth of a state's time.
CREATE INDEX states_held ON states (run, place, lease_until, claim) WHERE status = 'QUEUED';
-- Those that wait for a limit.
CREATE INDEX states_lanes ON states (lane, node_id, priority, turn, seq)
    WHERE status = 'CREATED' AND lane IS NOT NULL;
-- Those that wait for an event, and until when, if they do not wait without a limit. A condition more than
-- the other one has, or PostgreSQL would search the deadlines of all runs for the events of one.
CREATE INDEX states_waiting ON states (run, event, place, seq) WHERE lane = 'waiting' AND status = 'CREATED';
CREATE INDEX states_deadlines ON states (enqueue_after, seq)
    WHERE lane = 'waiting' AND status = 'CREATED' AND enqueue_after < 200000000000000;
-- SQLite would find the states in their order without seq, too, which each of its indexes ends with.
CREATE INDEX states_by_run ON states (run, seq);
CREATE INDEX states_failed ON states (run) WHERE status IN ('ERRORED', 'NEXT_CREATED_ERROR');
CREATE INDEX states_failed_by_time ON states (node_id, finished_at)
    WHERE status IN ('ERRORED', 'NEXT_CREATED_ERROR') AND error <> 'cancelled';
-- An attempt is replaced once.
CREATE UNIQUE INDEX states_retried ON states (retry_of) WHERE retry_of IS NOT NULL;
-- Each united node runs once for each state of its target, unless that is replaced.
CREATE UNIQUE INDEX states_united ON states (parent, place)
    WHERE united = 1 AND retry_count = 0 AND manual_fanout_id IS NULL;
-- The same manual retry asked for twice is a conflict.
CREATE UNIQUE INDEX states_manual ON states (run, place, manual_fanout_id)
    WHERE manual_fanout_id IS NOT NULL AND retry_count = 0;

-- How many states of one place of a run have which status. A claim changes none of these numbers: those that
-- are QUEUED are found by states_held.
CREATE TABLE counts (
    run INTEGER NOT NULL,
    place INTEGER NOT NULL,
    pending INTEGER NOT NULL DEFAULT 0,  -- CREATED, QUEUED
    success INTEGER NOT NULL DEFAULT 0,
    errored INTEGER NOT NULL DEFAULT 0,
    next_created_error INTEGER NOT NULL DEFAULT 0,
    retry_created INTEGER NOT NULL DEFAULT 0,
    pruned INTEGER NOT NULL DEFAULT 0,
    further INTEGER NOT NULL DEFAULT 0,  -- of the successes, those that are further outputs of another state
    turn INTEGER NOT NULL DEFAULT 0,     -- of the state that was created last
    PRIMARY KEY (run, place)
) WITHOUT ROWID;

-- Turns by node and priority: with '' for the key, that of the state that was claimed last; else that of the
-- state that was created last for this fairness key.
CREATE TABLE turns (
    node_id INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    fair_key TEXT NOT NULL,
    turn INTEGER NOT NULL,
    PRIMARY KEY (node_id, priority, fair_key)
) WITHOUT ROWID;
CREATE INDEX turns_by_turn ON turns (node_id, priority, turn);

-- Limits, which states of several graphs share (engine.slots).
CREATE TABLE limits (
    id INTEGER PRIMARY KEY AUTOINCREMENT,   -- never reused: states and lanes name it
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    at_most INTEGER,                     -- states that are held at once, of each key; NULL: any number
    starts INTEGER,                      -- claims in a period, of each key; NULL: any number
    period_ms INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (namespace, name)
);

-- An index of the held states by limit and key: a row counts while its state is QUEUED or, if that has ended,
-- while the row has its lease. Other rows say that a lane may have room. Those with a state below 1 only say
-- that: 0 of one key, -1 of all keys after this one.
CREATE TABLE slots (
    limit_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    state INTEGER NOT NULL,
    check_at INTEGER,                    -- when the lane may have room, Unix ms; or when the lease ends
    PRIMARY KEY (limit_id, key, state)
) WITHOUT ROWID;
CREATE INDEX slots_to_check ON slots (limit_id, check_at) WHERE check_at IS NOT NULL;

-- Claims of the last period, by limit and key.
CREATE TABLE starts (
    limit_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    slot INTEGER NOT NULL,               -- Unix time at which a sixtieth of the period began, ms
    count INTEGER NOT NULL,
    PRIMARY KEY (limit_id, key, slot)
) WITHOUT ROWID;

-- How many states below a state of a united target have which status, by place.
CREATE TABLE unite_counters (
    target_state INTEGER NOT NULL,
    place INTEGER NOT NULL,
    pending INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    succeeded INTEGER NOT NULL DEFAULT 0,
    replaced INTEGER,                    -- the united state of this place that is to run again, or did
    PRIMARY KEY (target_state, place)
) WITHOUT ROWID;

-- Successes that a united node reads as a list: the latest for each path.
CREATE TABLE unite_members (
    target_state INTEGER NOT NULL,
    place INTEGER NOT NULL,
    path BLOB NOT NULL,
    state INTEGER NOT NULL,
    PRIMARY KEY (target_state, place, path)
) WITHOUT ROWID;

-- What happened to a state, except that it was claimed and finished.
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    state INTEGER NOT NULL,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    worker TEXT                          -- runtime that held it, if any
);
CREATE INDEX events_by_state ON events (state, id);

-- Runs that the nodes of states called, and what came back (engine.calls).
CREATE TABLE calls (
    state INTEGER NOT NULL,
    key TEXT NOT NULL,                   -- chosen by the runtime
    graph TEXT NOT NULL,
    inputs TEXT NOT NULL,                -- JSON object of texts
    run TEXT,                            -- its public id, once it has ended
    outputs TEXT,                        -- JSON object of texts, once it succeeded
    error TEXT,                          -- once it failed
    PRIMARY KEY (state, key)
) WITHOUT ROWID;

-- The last stored checkpoint of each state that has one (engine.checkpoints).
CREATE TABLE checkpoints (
    state INTEGER PRIMARY KEY,
    token TEXT NOT NULL,                 -- lease token under which it was stored
    number INTEGER NOT NULL,             -- as in _wire.native.Checkpoint
    value TEXT NOT NULL,                 -- JSON
    at INTEGER NOT NULL
);

-- What the last execution of a state with any output logged and printed, as JSON (engine.reported_texts).
CREATE TABLE logs (state INTEGER PRIMARY KEY, lines TEXT NOT NULL);

-- How many states of a node ended, by graph, status and bucket of duration, in slots of several widths
-- (store.tallies); node_id 0 counts whole runs.
CREATE TABLE trends (
    node_id INTEGER NOT NULL,
    width INTEGER NOT NULL,              -- in minutes
    slot INTEGER NOT NULL,               -- of Unix time, in widths
    graph INTEGER NOT NULL,
    status TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (node_id, width, slot, graph, status, bucket)
) WITHOUT ROWID;
CREATE INDEX trends_by_graph ON trends (graph, width, slot);

-- How long those states of a node waited before, in the same slots and buckets. Not in trends, where earlier
-- managers would count each row as states that ended.
CREATE TABLE waiting_trends (
    node_id INTEGER NOT NULL,
    width INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    stage TEXT NOT NULL,                 -- waited: until the claim; buffered: from there until execute
    bucket INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (node_id, width, slot, stage, bucket)
) WITHOUT ROWID;
"""

SCHEMA = WORK + PARTICIPANTS
