-- +goose Up

-- Whether somebody is connected as a user, for the append, which asks while it has the
-- stream's row locked. VOLATILE, in PL/pgSQL: under READ COMMITTED each call has a
-- snapshot of its own, newer than the lock. A subquery in the statement itself would
-- have the statement's, and miss a connect that has committed while it waited.
--
-- While there is no replica nothing is known: a crash of Postgres empties both tables.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION stream_connected(text) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM sessions x WHERE x.user_id = $1) OR NOT EXISTS (SELECT FROM replicas);
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION IF EXISTS stream_connected(text);
