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
    updated_at INTEGER NOT NULL, paused_at INTEGER,
    UNIQUE (namespace, name)
);
CREATE TABLE graphs (
    id INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    template INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL, paused_at INTEGER,
    UNIQUE (namespace, name)
);
CREATE TABLE templates (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    graph INTEGER NOT NULL,
    body TEXT NOT NULL,
    validation_status TEXT NOT NULL,
    validation_errors TEXT NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE INDEX templates_by_graph ON templates (graph);
CREATE TABLE secrets (
    graph INTEGER NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (graph, name)
) WITHOUT ROWID;
CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL UNIQUE,
    namespace TEXT NOT NULL,
    graph INTEGER NOT NULL,
    template INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    finished_at INTEGER,
    cancelled_at INTEGER,
    pending INTEGER NOT NULL DEFAULT 0,
    success INTEGER NOT NULL DEFAULT 0,
    errored INTEGER NOT NULL DEFAULT 0,
    retried INTEGER NOT NULL DEFAULT 0
, key TEXT, key_digest TEXT, origin TEXT);
CREATE INDEX runs_by_time ON runs (namespace, created_at, id);
CREATE INDEX runs_by_template ON runs (template);
CREATE INDEX runs_finished ON runs (finished_at) WHERE finished_at IS NOT NULL;
CREATE TABLE discarded (run INTEGER PRIMARY KEY);
CREATE TABLE store (
    run INTEGER NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (run, key)
) WITHOUT ROWID;
CREATE TABLE states (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    run INTEGER NOT NULL,
    place INTEGER NOT NULL,
    node_id INTEGER NOT NULL,
    status TEXT NOT NULL,
    inputs TEXT NOT NULL,
    outputs TEXT NOT NULL DEFAULT '{}',
    data TEXT,
    error TEXT,
    parent INTEGER,
    united INTEGER NOT NULL DEFAULT 0,
    groups TEXT NOT NULL DEFAULT '',
    path BLOB NOT NULL DEFAULT x'',
    enqueue_after INTEGER NOT NULL,
    retry_count INTEGER NOT NULL DEFAULT 0,
    manual_fanout_id TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    claim TEXT,
    token TEXT,
    worker TEXT,
    manager TEXT,
    lease_until INTEGER,
    deliveries INTEGER NOT NULL DEFAULT 0,
    requeued INTEGER NOT NULL DEFAULT 0,
    claimed_at INTEGER,
    finished_at INTEGER,
    retry_of INTEGER,
    begun INTEGER NOT NULL DEFAULT 0,
    suspect INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL DEFAULT 0
, trace TEXT, failed_since INTEGER, begun_at INTEGER, ran_ms INTEGER, checkpoint_size INTEGER);
CREATE INDEX states_ready ON states (node_id, enqueue_after, seq) WHERE status = 'CREATED';
CREATE INDEX states_ready_by_run ON states (run, node_id, enqueue_after, seq) WHERE status = 'CREATED';
CREATE INDEX states_by_run ON states (run, seq);
CREATE INDEX states_failed ON states (run) WHERE status IN ('ERRORED', 'NEXT_CREATED_ERROR');
CREATE INDEX states_failed_by_time ON states (node_id, finished_at)
    WHERE status IN ('ERRORED', 'NEXT_CREATED_ERROR') AND error <> 'cancelled';
CREATE UNIQUE INDEX states_retried ON states (retry_of) WHERE retry_of IS NOT NULL;
CREATE UNIQUE INDEX states_united ON states (parent, place)
    WHERE united = 1 AND retry_count = 0 AND manual_fanout_id IS NULL;
CREATE UNIQUE INDEX states_manual ON states (run, place, manual_fanout_id)
    WHERE manual_fanout_id IS NOT NULL AND retry_count = 0;
CREATE TABLE counts (
    run INTEGER NOT NULL,
    place INTEGER NOT NULL,
    pending INTEGER NOT NULL DEFAULT 0,
    success INTEGER NOT NULL DEFAULT 0,
    errored INTEGER NOT NULL DEFAULT 0,
    next_created_error INTEGER NOT NULL DEFAULT 0,
    retry_created INTEGER NOT NULL DEFAULT 0,
    pruned INTEGER NOT NULL DEFAULT 0, further INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run, place)
) WITHOUT ROWID;
CREATE TABLE unite_counters (
    target_state INTEGER NOT NULL,
    place INTEGER NOT NULL,
    pending INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    succeeded INTEGER NOT NULL DEFAULT 0, replaced INTEGER,
    PRIMARY KEY (target_state, place)
) WITHOUT ROWID;
CREATE TABLE unite_members (
    target_state INTEGER NOT NULL,
    place INTEGER NOT NULL,
    path BLOB NOT NULL,
    state INTEGER NOT NULL,
    PRIMARY KEY (target_state, place, path)
) WITHOUT ROWID;
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    state INTEGER NOT NULL,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    worker TEXT
);
CREATE INDEX events_by_state ON events (state, id);
CREATE TABLE claims (id TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX claims_by_age ON claims (at);
CREATE TABLE workers (
    id INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    worker_id TEXT NOT NULL,
    seen_at INTEGER NOT NULL,
    heard INTEGER NOT NULL,
    polled_at INTEGER,
    nodes TEXT NOT NULL DEFAULT '[]',
    runtime TEXT NOT NULL DEFAULT '',
    phase TEXT NOT NULL DEFAULT '',
    beat TEXT,
    tasks TEXT,
    tasks_at INTEGER,
    drain_asked INTEGER NOT NULL DEFAULT 0,
    tasks_asked INTEGER NOT NULL DEFAULT 0, slots INTEGER NOT NULL DEFAULT 0, beat_at INTEGER, lease_until INTEGER, manager TEXT,
    UNIQUE (namespace, worker_id)
);
CREATE INDEX workers_by_time ON workers (seen_at);
CREATE TABLE v0_runtimes (
    id INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    digest TEXT NOT NULL,
    nodes TEXT NOT NULL,
    seen_at INTEGER NOT NULL,
    heard INTEGER NOT NULL,
    UNIQUE (namespace, digest)
);
CREATE INDEX v0_runtimes_by_time ON v0_runtimes (seen_at);
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    opened_at INTEGER NOT NULL,
    used_at INTEGER NOT NULL,
    flashes TEXT NOT NULL DEFAULT '[]'
) WITHOUT ROWID;
CREATE TABLE sign_in_links (id TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE wrong_keys (network TEXT PRIMARY KEY, until INTEGER NOT NULL, keys TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX wrong_keys_by_time ON wrong_keys (until);
CREATE TABLE managers (
    id TEXT PRIMARY KEY,
    started_at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    version TEXT NOT NULL,
    schema_version INTEGER NOT NULL,
    clock_ahead INTEGER NOT NULL,
    secret_keys TEXT NOT NULL
, host TEXT) WITHOUT ROWID;
CREATE TABLE duties (
    name TEXT PRIMARY KEY,
    at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX runs_by_key ON runs (key, graph) WHERE key IS NOT NULL;
CREATE INDEX states_held ON states (run, place, lease_until, claim) WHERE status = 'QUEUED';
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
CREATE TABLE cron_triggers (
    graph INTEGER NOT NULL,
    expression TEXT NOT NULL,
    next_at INTEGER NOT NULL,
    PRIMARY KEY (graph, expression)
) WITHOUT ROWID;
CREATE INDEX cron_triggers_by_time ON cron_triggers (next_at);
CREATE TABLE idle_times (
    run INTEGER NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY (run, since)
) WITHOUT ROWID;
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
INSERT INTO counts VALUES(1,0,0,1,0,0,0,0,0);
INSERT INTO counts VALUES(1,1,0,1,0,0,0,0,0);
INSERT INTO counts VALUES(1,2,0,1,0,0,0,0,0);
INSERT INTO counts VALUES(2,0,0,2,0,0,0,0,0);
INSERT INTO counts VALUES(2,1,2,0,0,0,0,0,0);
INSERT INTO cron_triggers VALUES(1,'0 3 * * *',1700017200000);
INSERT INTO graphs VALUES(1,'old','audit',1,1700000000553,1700000000553,NULL);
INSERT INTO meta VALUES('clock_latest','1700000000511');
INSERT INTO meta VALUES('registered','1');
INSERT INTO meta VALUES('stamp','774523e2');
INSERT INTO nodes VALUES(1,'old','Node_a','contract','{"type":"object","properties":{},"required":[]}','{"type":"object","properties":{"v":{"type":"string"},"w":{"type":"string"}},"required":["v","w"]}','[]',1700000000524,1700000000524,NULL);
INSERT INTO nodes VALUES(2,'old','Node_b','contract','{"type":"object","properties":{},"required":[]}','{"type":"object","properties":{"v":{"type":"string"},"w":{"type":"string"}},"required":["v","w"]}','[]',1700000000524,1700000000524,NULL);
INSERT INTO nodes VALUES(3,'old','Node_u','contract','{"type":"object","properties":{},"required":[]}','{"type":"object","properties":{"v":{"type":"string"},"w":{"type":"string"}},"required":["v","w"]}','[]',1700000000524,1700000000524,NULL);
INSERT INTO runs VALUES(1,'5163256f-59a8-4b81-be2d-519994d01a55','old',1,1,1700000000559,1700000000575,NULL,0,3,0,0,NULL,NULL,NULL);
INSERT INTO runs VALUES(2,'e88efb76-16b5-4313-9cd4-5d0336645e90','old',1,1,1700000000578,NULL,NULL,2,2,0,0,NULL,NULL,NULL);
INSERT INTO states VALUES(1,1,0,1,'SUCCESS','{}','{"v":"a","w":"w"}',NULL,NULL,NULL,0,'',X'00',1700000000559,0,NULL,1700000000559,1700000000565,NULL,NULL,NULL,NULL,NULL,0,0,1700000000563,1700000000565,NULL,1,0,2,NULL,NULL,NULL,NULL,NULL);
INSERT INTO states VALUES(2,1,1,2,'SUCCESS','{}','{"v":"b","w":"w"}',NULL,NULL,1,0,'1:0',X'00000100',1700000000565,0,NULL,1700000000565,1700000000570,NULL,NULL,NULL,NULL,NULL,0,0,1700000000569,1700000000570,NULL,1,0,2,NULL,NULL,NULL,NULL,NULL);
INSERT INTO states VALUES(3,1,2,3,'SUCCESS','{}','{"v":"u","w":"w"}',NULL,NULL,1,1,'1:0',X'00000200',1700000000570,0,NULL,1700000000570,1700000000575,NULL,NULL,NULL,NULL,NULL,0,0,1700000000574,1700000000575,NULL,1,0,2,NULL,NULL,NULL,NULL,NULL);
INSERT INTO states VALUES(4,2,0,1,'SUCCESS','{}','{"v":"1","w":"w"}',NULL,NULL,NULL,0,'',X'00',1700000000578,0,NULL,1700000000578,1700000000581,NULL,NULL,NULL,NULL,NULL,0,0,1700000000579,1700000000581,NULL,1,0,2,NULL,NULL,NULL,NULL,NULL);
INSERT INTO states VALUES(5,2,1,2,'QUEUED','{}','{}',NULL,NULL,4,0,'4:0',X'000001',1700000000581,0,NULL,1700000000581,1700000000581,'claim-1','45c08411b73ad399','old-worker',NULL,24255667,0,0,1700000000585,NULL,NULL,1,0,2,NULL,NULL,NULL,NULL,NULL);
INSERT INTO states VALUES(6,2,0,1,'SUCCESS','{}','{"v":"2","w":"w"}',NULL,NULL,NULL,0,'',X'0101',1700000000581,0,NULL,1700000000581,1700000000581,NULL,NULL,NULL,NULL,NULL,0,0,NULL,1700000000581,NULL,0,0,2,NULL,NULL,NULL,NULL,NULL);
INSERT INTO states VALUES(7,2,1,2,'CREATED','{}','{}',NULL,NULL,6,0,'6:0',X'01010001',1700000000581,0,NULL,1700000000581,1700000000581,NULL,NULL,NULL,NULL,NULL,0,0,NULL,NULL,NULL,0,0,2,NULL,NULL,NULL,NULL,NULL);
INSERT INTO store VALUES(1,'k','"v"');
INSERT INTO store VALUES(2,'k','"v"');
INSERT INTO templates VALUES(1,1,'{"secrets":{},"nodes":[{"node_name":"Node_a","namespace":"old","identifier":"a","inputs":{},"next_nodes":["b"],"unites":null},{"node_name":"Node_b","namespace":"old","identifier":"b","inputs":{},"next_nodes":["u"],"unites":null},{"node_name":"Node_u","namespace":"old","identifier":"u","inputs":{},"next_nodes":[],"unites":{"identifier":"a","strategy":"ALL_SUCCESS"}}],"retry_policy":{"max_retries":2,"strategy":"FIXED","backoff_factor":1,"exponent":2,"max_delay":null},"store_config":{"required_keys":["k"],"default_values":{}},"triggers":[{"type":"CRON","value":{"expression":"0 3 * * *"}}]}','VALID','[]',1700000000553);
INSERT INTO trends VALUES(1,1,28333333,0,'SUCCESS',2,2);
INSERT INTO trends VALUES(1,15,1888888,0,'SUCCESS',2,2);
INSERT INTO trends VALUES(1,120,236111,0,'SUCCESS',2,2);
INSERT INTO trends VALUES(2,1,28333333,0,'SUCCESS',1,1);
INSERT INTO trends VALUES(2,15,1888888,0,'SUCCESS',1,1);
INSERT INTO trends VALUES(2,120,236111,0,'SUCCESS',1,1);
INSERT INTO trends VALUES(3,1,28333333,0,'SUCCESS',1,1);
INSERT INTO trends VALUES(3,15,1888888,0,'SUCCESS',1,1);
INSERT INTO trends VALUES(3,120,236111,0,'SUCCESS',1,1);
INSERT INTO unite_counters VALUES(1,1,0,0,1,NULL);
INSERT INTO unite_counters VALUES(1,2,0,0,1,NULL);
INSERT INTO unite_counters VALUES(4,1,1,0,0,NULL);
INSERT INTO unite_counters VALUES(6,1,1,0,0,NULL);
