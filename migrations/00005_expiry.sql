-- Expiry in bounded pieces, what a client has confirmed as a position of its own,
-- and idempotency keys that outlive their messages. The release before runs on this
-- schema: it ignores the tables, and what it does to streams and events stays valid.

-- +goose Up

-- What clients have confirmed, while acked has moved further because what came
-- next expired. NULL: acked is what they have confirmed.
ALTER TABLE streams ADD COLUMN confirmed bigint;

-- The latest expiry of each complete block of 1,024 events, (through - 1024,
-- through]: a reader steps over 5,000,000 expired events in milliseconds instead of
-- seconds. It may be too late, which costs a look at the block, and never too early,
-- which would skip a message. A block without a row is looked through.
CREATE TABLE event_blocks (
    user_id    text COLLATE "C" NOT NULL,
    through    bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, through)
);

-- Events that have expired and are not deleted yet. A range is written in one step,
-- under the stream's lock; trim deletes its events later, from the end, in pieces.
CREATE TABLE expired_ranges (
    user_id  text COLLATE "C" NOT NULL,
    from_seq bigint NOT NULL,
    to_seq   bigint NOT NULL,
    PRIMARY KEY (user_id, from_seq),
    CHECK (0 < from_seq AND from_seq <= to_seq)
);

-- Keys of events that were deleted before their keys may be forgotten.
CREATE TABLE idempotency_keys (
    user_id         text COLLATE "C" NOT NULL,
    publisher       text   NOT NULL,
    idempotency_key text   NOT NULL,
    seq             bigint NOT NULL,
    digest          bytea  NOT NULL, -- SHA-256 of payload, NUL, type
    accepted_at     timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL, -- the event's
    forget_at       timestamptz NOT NULL,
    PRIMARY KEY (user_id, publisher, idempotency_key)
);
CREATE INDEX idempotency_keys_forget ON idempotency_keys (forget_at);

-- A trigger, because it runs when the whole statement has been written, under the
-- stream's lock and with a snapshot that is younger than the lock: it sees what
-- another replica committed just before. It notes a block only when it sees all of
-- it. Of 1,024 rows it is called for one; for the others WHEN is all there is. To look
-- through a block takes 1.5 ms, so one that is being confirmed already is left out. So
-- is one that took longer than ten minutes: its events may lie on 1,024 pages that
-- would have to be read from the disk, while others wait for the append.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION note_event_block() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    seen bigint;
    latest timestamptz;
BEGIN
    PERFORM FROM events
    WHERE user_id = NEW.user_id AND seq = NEW.seq - 1023 AND created_at > NEW.created_at - interval '10 minutes';
    IF NOT FOUND OR EXISTS (SELECT FROM streams WHERE user_id = NEW.user_id AND acked > NEW.seq - 1024) THEN
        RETURN NULL;
    END IF;
    SELECT count(*), max(expires_at) INTO seen, latest FROM events
    WHERE user_id = NEW.user_id AND seq > NEW.seq - 1024 AND seq <= NEW.seq;
    IF seen = 1024 THEN
        INSERT INTO event_blocks VALUES (NEW.user_id, NEW.seq, latest)
        ON CONFLICT (user_id, through) DO UPDATE SET expires_at = excluded.expires_at;
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER note_event_block AFTER INSERT ON events
    FOR EACH ROW WHEN (NEW.seq % 1024 = 0) EXECUTE FUNCTION note_event_block();

-- Nothing in the gateway prolongs a message. Whoever does it by hand must not lose it.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION prolong_event_block() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE event_blocks SET expires_at = greatest(expires_at, NEW.expires_at)
    WHERE user_id = NEW.user_id AND through = (NEW.seq + 1023) / 1024 * 1024;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER prolong_event_block AFTER UPDATE OF expires_at ON events
    FOR EACH ROW WHEN (NEW.expires_at > OLD.expires_at) EXECUTE FUNCTION prolong_event_block();

-- +goose Down
DROP TRIGGER prolong_event_block ON events;
DROP TRIGGER note_event_block ON events;
DROP FUNCTION prolong_event_block(), note_event_block();
DROP TABLE idempotency_keys, expired_ranges, event_blocks;
ALTER TABLE streams DROP COLUMN confirmed;
