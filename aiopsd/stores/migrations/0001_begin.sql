-- Decisions, outbox and positions. Bodies are msgpack of the model's Structs; what queries ask for stands beside them,
-- before the body, so that a scan does not read it. Times are UTC seconds.

-- Who may write: each daemon that opens the store adds one; whoever holds an older number is refused.
CREATE TABLE owner (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL);
INSERT INTO owner VALUES (1, 0);

-- Journal offset of the last committed decisions, and the configuration that they were made under.
CREATE TABLE position (one INTEGER PRIMARY KEY CHECK (one = 1), "offset" INTEGER NOT NULL, config_hash TEXT NOT NULL);
INSERT INTO position VALUES (1, -1, '');
CREATE TABLE config (hash TEXT PRIMARY KEY, text TEXT NOT NULL, first_used REAL NOT NULL) WITHOUT ROWID;

CREATE TABLE incident (
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    opened_at REAL NOT NULL,
    ended_at REAL NOT NULL,     -- of a resolved or merged one: its last change; 0 while it lives
    services TEXT NOT NULL,     -- newline-separated, with one at each end
    body BLOB NOT NULL
);
CREATE INDEX incident_opened ON incident (opened_at, id);
CREATE INDEX incident_ended ON incident (ended_at) WHERE ended_at > 0;

CREATE TABLE alert (
    fingerprint TEXT NOT NULL UNIQUE,
    incident TEXT NOT NULL,
    state TEXT NOT NULL,
    starts_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX alert_incident ON alert (incident);

CREATE TABLE silence (id TEXT NOT NULL UNIQUE, ends_at REAL NOT NULL, body BLOB NOT NULL);

CREATE TABLE audit (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    incident TEXT NOT NULL,
    stamp REAL NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX audit_incident ON audit (incident, seq);

CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    destination TEXT NOT NULL,  -- one request goes to every trainer: an id is unique per destination
    dedup_key TEXT NOT NULL,
    incident TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    next_at REAL NOT NULL,
    error TEXT NOT NULL,
    created_at REAL NOT NULL,
    done_at REAL NOT NULL,
    receipt BLOB NOT NULL,      -- msgpack of {text: text}
    body BLOB NOT NULL,
    UNIQUE (id, destination)
);
CREATE INDEX outbox_state ON outbox (state, seq);
CREATE INDEX outbox_key ON outbox (destination, dedup_key, seq);
CREATE INDEX outbox_incident ON outbox (incident, seq) WHERE incident <> '';

-- Snapshot files: the newest of a name is current, the one before is kept in case the disk loses it.
CREATE TABLE snapshot (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    position INTEGER NOT NULL,
    config_hash TEXT NOT NULL,
    written_at REAL NOT NULL,
    file TEXT NOT NULL UNIQUE,  -- in the folder of snapshots
    sha256 TEXT NOT NULL,
    size INTEGER NOT NULL
);
CREATE INDEX snapshot_name ON snapshot (name, seq);
