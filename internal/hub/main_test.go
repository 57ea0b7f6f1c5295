package hub_test

import (
	"testing"

	"restante/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }
