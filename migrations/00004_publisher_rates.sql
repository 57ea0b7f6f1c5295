-- +goose Up

-- What a key may post a second on each replica. NULL: the replica's default; 0: no
-- limit. The release before does not look at it.
ALTER TABLE publishers
    ADD COLUMN rate_messages bigint CHECK (rate_messages >= 0),
    ADD COLUMN rate_bytes    bigint CHECK (rate_bytes >= 0);

-- +goose Down
ALTER TABLE publishers DROP COLUMN rate_messages, DROP COLUMN rate_bytes;
