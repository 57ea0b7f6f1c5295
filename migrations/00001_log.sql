-- The event log and what delivery keeps beside it. Every key begins with
-- user_id, so that the tables can be distributed by user when one Postgres is
-- outgrown. user_id is compared as bytes (COLLATE "C"): Go and Postgres must
-- sort users alike, for every statement that locks streams locks them in order.

-- +goose Up

-- The log's incarnation. A client that resumes with another epoch's position
-- starts again instead of skipping.
CREATE TABLE meta (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch    text NOT NULL DEFAULT gen_random_uuid()::text,
    -- how far trim has walked through the streams; '' starts anew
    trim_after text COLLATE "C" NOT NULL DEFAULT ''
);
INSERT INTO meta DEFAULT VALUES;

-- One small row per user, updated in place: with no index on what changes and
-- half of each page left free, updates stay HOT.
CREATE TABLE streams (
    user_id text COLLATE "C" PRIMARY KEY,
    head    bigint   NOT NULL DEFAULT 0, -- last seq appended
    acked   bigint   NOT NULL DEFAULT 0, -- every seq up to here was confirmed by a client, or expired
    trimmed bigint   NOT NULL DEFAULT 0, -- every event up to here has been deleted
    armed   bigint   NOT NULL DEFAULT 0, -- seq that last turned the lane from idle to owed
    lane    smallint NOT NULL DEFAULT 0, -- 0 idle, 1 owed (a delivery job exists), 2 parked (nobody connected)
    CHECK (octet_length(user_id) BETWEEN 1 AND 256),
    CHECK (0 <= trimmed AND trimmed <= acked AND acked <= head),
    CHECK (lane IN (0, 1, 2))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- Lanes that owe a delivery job: what the reconcile looks through. Only a
-- change of lane touches it.
CREATE INDEX streams_owed ON streams (user_id) WHERE lane = 1;

CREATE TABLE events (
    user_id         text COLLATE "C" NOT NULL,
    seq             bigint NOT NULL,
    payload         bytea  NOT NULL, -- the JSON value as the publisher sent it, byte for byte
    type            text,
    idempotency_key text,
    publisher       text   NOT NULL,
    traceparent     text,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at      timestamptz NOT NULL,
    PRIMARY KEY (user_id, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

CREATE UNIQUE INDEX events_idempotency ON events (user_id, publisher, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- Presence is a lease, never truth: these are unlogged, a crash of Postgres
-- empties them, and replicas notice and register again.
CREATE UNLOGGED TABLE replicas (
    replica_id   text PRIMARY KEY, -- new at every start
    address      text NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

CREATE UNLOGGED TABLE sessions (
    session_id   text PRIMARY KEY,
    user_id      text COLLATE "C" NOT NULL,
    replica_id   text NOT NULL,
    transport    text NOT NULL,
    connected_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_replica ON sessions (replica_id);

-- Tokens that were issued and not yet used. After a crash of Postgres every
-- token is simply invalid.
CREATE UNLOGGED TABLE tokens (
    jti        text PRIMARY KEY,
    expires_at timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- A count of all streams, taken now and then by one replica, so that a scrape of
-- each need not count them.
CREATE UNLOGGED TABLE census (
    only_row         boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    taken_at         timestamptz NOT NULL,
    idle             bigint NOT NULL,
    owed             bigint NOT NULL,
    parked           bigint NOT NULL,
    pending_users    bigint NOT NULL,
    pending_messages bigint NOT NULL,
    -- how long the oldest pending message of a connected user has been waiting
    pending_seconds  double precision NOT NULL
);

-- Back ends' API keys. The secret is random (256 bits), so one SHA-256 of it is
-- as good as a slow hash, and cheap enough for every request.
CREATE TABLE publishers (
    key_id      text PRIMARY KEY,
    name        text   NOT NULL,
    secret_hash bytea  NOT NULL,
    scopes      text[] NOT NULL,
    user_prefix text COLLATE "C" NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    revoked_at  timestamptz
);

-- River's table changes several times in each job's short life. Its two GIN
-- indexes serve ad-hoc JSON filters only and are most of what each change
-- writes. Autovacuum at its defaults falls behind here.
DROP INDEX IF EXISTS river_job_args_index, river_job_metadata_index;
ALTER TABLE river_job SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- +goose Down
DROP TABLE publishers, census, tokens, sessions, replicas, events, streams, meta;
CREATE INDEX river_job_args_index ON river_job USING gin (args);
CREATE INDEX river_job_metadata_index ON river_job USING gin (metadata);
ALTER TABLE river_job RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold,
    autovacuum_vacuum_insert_scale_factor, autovacuum_vacuum_cost_delay);
