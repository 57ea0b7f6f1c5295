package floor

import (
	"context"
	"time"
)

// confirm is what a client has: everything of the user up to id.
type confirm struct {
	user int32
	id   int64
}

// gathering is how long confirmations of all sockets are collected before
// their rows are deleted together.
const gathering = 5 * time.Millisecond

// deletes removes what clients have confirmed, in groups.
func (s *Server) deletes(ctx context.Context) {
	const remove = `DELETE FROM floor USING unnest($1::integer[], $2::bigint[]) AS c(user_id, id)
		WHERE floor.user_id = c.user_id AND floor.id <= c.id`
	for {
		var first confirm
		select {
		case <-ctx.Done():
			return
		case first = <-s.confirms:
		}
		time.Sleep(gathering)
		upTo := map[int32]int64{first.user: first.id}
		for range len(s.confirms) {
			c := <-s.confirms
			upTo[c.user] = max(upTo[c.user], c.id)
		}
		users, ids := make([]int32, 0, len(upTo)), make([]int64, 0, len(upTo))
		for user, id := range upTo {
			users, ids = append(users, user), append(ids, id)
		}
		if _, err := s.db.Exec(ctx, remove, users, ids); err != nil && ctx.Err() == nil {
			s.log.Error("confirmed messages not deleted", "err", err) // a later confirmation covers them
		}
	}
}
