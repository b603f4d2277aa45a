"""The tables of runtimes, state managers, keys and sessions, and the record of what callers changed.

They are part of ``schema``, which says how tables are written.
"""

from __future__ import annotations

PARTICIPANTS = """
-- What was changed by requests and commands, and by whom (Transaction.record). Ids are in the order of time.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    key_id TEXT,                         -- of a named key; NULL: the configured key, or none
    who TEXT NOT NULL,                   -- the name of the key, as pages show it
    address TEXT NOT NULL,               -- '' without one
    request_id TEXT NOT NULL,            -- '' without one
    action TEXT NOT NULL,
    namespace TEXT NOT NULL,             -- '' for what belongs to none
    target TEXT NOT NULL,
    result TEXT NOT NULL                 -- '' if there is nothing more to say
);
CREATE INDEX audit_by_target ON audit (target, id);

-- Native claims of the last minutes, on the clock of leases. One that took states, or was voided, takes no
-- more.
CREATE TABLE claims (id TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX claims_by_age ON claims (at);

-- Runtimes that were heard of lately (engine.workers). Times are on the clock of leases, ms.
CREATE TABLE workers (
    id INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    worker_id TEXT NOT NULL,
    seen_at INTEGER NOT NULL,            -- heartbeat or claim
    heard INTEGER NOT NULL,              -- how often
    polled_at INTEGER,                   -- claim
    nodes TEXT NOT NULL DEFAULT '[]',    -- those it asked for
    runtime TEXT NOT NULL DEFAULT '',
    phase TEXT NOT NULL DEFAULT '',
    beat TEXT,                           -- its last HeartbeatRequest, without its tasks
    tasks TEXT,
    tasks_at INTEGER,
    drain_asked INTEGER NOT NULL DEFAULT 0,  -- by what (engine.stops); below zero: the drain has begun
    tasks_asked INTEGER NOT NULL DEFAULT 0,
    slots INTEGER NOT NULL DEFAULT 0,    -- maximum of states that it runs at once; 0: not known
    beat_at INTEGER,                     -- wall time of its last heartbeat
    lease_until INTEGER,                 -- when it counts as vanished; NULL: its end is recorded, or never
    manager TEXT,                        -- the state manager inside whose process it is, if so
    run_id TEXT,                         -- the only run that it claims states of; NULL: of all runs
    UNIQUE (namespace, worker_id)
);
CREATE INDEX workers_by_time ON workers (seen_at);
CREATE INDEX workers_by_lease ON workers (lease_until) WHERE lease_until IS NOT NULL;

-- How runtimes ended (engine.stops). Not by a clock of leases.
CREATE TABLE stops (
    id INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    worker_id TEXT NOT NULL,
    ended_at INTEGER NOT NULL,
    receipt TEXT NOT NULL,               -- as JSON
    UNIQUE (namespace, worker_id)
);
CREATE INDEX stops_by_time ON stops (ended_at);

-- Which nodes were claimed through v0 lately. v0 names no runtime.
CREATE TABLE v0_runtimes (
    id INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    digest TEXT NOT NULL,                -- of the nodes
    nodes TEXT NOT NULL,
    seen_at INTEGER NOT NULL,
    heard INTEGER NOT NULL,
    UNIQUE (namespace, digest)
);
CREATE INDEX v0_runtimes_by_time ON v0_runtimes (seen_at);

-- Sessions of the dashboard, and links that open one. Their ids are digests, made with the API key
-- (security.sessions).
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    opened_at INTEGER NOT NULL,
    used_at INTEGER NOT NULL,
    flashes TEXT NOT NULL DEFAULT '[]'   -- messages for the next page
) WITHOUT ROWID;
CREATE TABLE sign_in_links (id TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;

-- Named keys (engine.keys). meta has how often they were changed, as "keys".
CREATE TABLE keys (
    id TEXT PRIMARY KEY,                 -- the part of its text that is not secret
    name TEXT NOT NULL,
    digest TEXT NOT NULL,                -- SHA-256 of its text
    scopes TEXT NOT NULL,                -- JSON list (rules.access)
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    used_at INTEGER                      -- to the minute
) WITHOUT ROWID;

-- The state managers that use this database. Times are on the clock of leases.
CREATE TABLE managers (
    id TEXT PRIMARY KEY,                 -- of one process from its start to its end
    started_at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    version TEXT NOT NULL,
    schema_version INTEGER NOT NULL,     -- VERSION, as it knows it
    clock_ahead INTEGER NOT NULL,        -- of the database's time, in its own, ms
    secret_keys TEXT NOT NULL,           -- ids of its keys for secrets (store.shared_keys)
    host TEXT                            -- the name of its machine
) WITHOUT ROWID;

-- What one state manager at a time does for all (engine.managers): who gets the row.
CREATE TABLE duties (
    name TEXT PRIMARY KEY,
    at INTEGER NOT NULL                  -- when it was last done, on the clock of leases
) WITHOUT ROWID;
"""
