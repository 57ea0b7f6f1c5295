package testdb_test

import (
	"testing"

	"restante/internal/testdb"
	"restante/migrations"
)

func TestMain(m *testing.M) { testdb.Main(m) }

func TestNew(t *testing.T) {
	for range 8 {
		t.Run("clone", func(t *testing.T) {
			t.Parallel()
			db := testdb.New(t)
			if err := migrations.Check(t.Context(), db.Pool); err != nil {
				t.Fatal(err)
			}
			var streams int
			if err := db.Pool.QueryRow(t.Context(), "INSERT INTO streams (user_id) VALUES ('ann') RETURNING (SELECT count(*) FROM streams)").Scan(&streams); err != nil {
				t.Fatal(err)
			}
			if streams != 0 {
				t.Errorf("a new database has %d streams", streams)
			}
		})
	}
}
