package api

import (
	"net/http"
	"strconv"
	"strings"

	"restante/internal/events"
	"restante/internal/publishers"
)

// postMessages takes one message, one message for many users, or an array.
func (a *API) postMessages(x *exchange, r *http.Request) *problem {
	return a.publish(x, r, true, &a.shapes.single)
}

// postMessage is the seed's path: one message, and it is a string.
func (a *API) postMessage(x *exchange, r *http.Request) *problem {
	return a.publish(x, r, false, &a.shapes.seed)
}

func (a *API) publish(x *exchange, r *http.Request, arrays bool, s *shape) *problem {
	from, p := a.publisher(x, r, publishers.ScopePublish)
	if p != nil {
		return p
	}
	key, p := idempotencyKey(r.Header)
	if p != nil {
		return p
	}
	if p := a.withinRate(&from, nil); p != nil { // before the work of reading it
		return p
	}
	buffer, p := a.readBody(x, r)
	defer a.buffers.put(buffer)
	if p != nil {
		return p
	}
	m := events.Message{Publisher: from.name, Credential: from.credential, Key: key, Traceparent: traceparent(r.Header)}
	g, p := a.decode(x, r, *buffer, from, &m, arrays, s)
	switch {
	case p != nil:
		return p
	case g != nil:
		if p := a.withinRate(&from, g.messages); p != nil {
			return p
		}
		return a.appendGroup(x, r, g)
	}
	one := []events.Message{m}
	if p := a.withinRate(&from, one); p != nil {
		return p
	}
	return a.appendOne(x, r, one)
}

// decode reads what was posted into m, or, when it is several messages that begin as
// m, into a group.
func (a *API) decode(x *exchange, r *http.Request, body []byte, from publisher, m *events.Message, arrays bool, s *shape) (*group, *problem) {
	done, p := a.decoding(x, r, body)
	if p != nil {
		return nil, p
	}
	defer done()
	in := a.readers.get()
	defer a.readers.put(in)
	if p := in.open(body); p != nil {
		return nil, p
	}
	if arrays && in.kind() == '[' {
		return a.readArray(in, from, *m)
	}
	d := draft{message: *m}
	if p := a.readOne(&d, in, s); p != nil {
		return nil, p
	}
	if d.users != nil {
		return a.forUsers(&d, from)
	}
	*m = d.message
	return nil, from.reaches(m.UserID)
}

// readOne reads a body that is one object.
func (a *API) readOne(d *draft, in *reader, s *shape) *problem {
	p, err := a.parse(d, in, s)
	if p == nil && err == nil {
		err = in.end()
	}
	if err != nil {
		return in.malformed(err)
	}
	return p
}

// idempotencyKey returns the header's key, "" when there is none.
func idempotencyKey(h http.Header) (string, *problem) {
	values, given := h["Idempotency-Key"]
	if !given {
		return "", nil
	}
	if len(values) != 1 || !validKey(values[0]) {
		return "", invalidKey("Idempotency-Key")
	}
	return values[0], nil
}

// withinRate takes messages from what their publisher may post now. Each copy of a
// message for several users counts, and so does one that is posted again.
func (a *API) withinRate(from *publisher, messages []events.Message) *problem {
	bytes := 0
	for i := range messages {
		bytes += len(messages[i].Payload)
	}
	p := a.rates.take(from, len(messages), bytes)
	if p != nil {
		a.metrics.limited.WithLabelValues(p.unit).Inc()
	}
	return p
}

// appendOne appends one message and answers with its receipt.
func (a *API) appendOne(x *exchange, r *http.Request, one []events.Message) *problem {
	m := &one[0]
	receipts, err := a.log.Append(r.Context(), one)
	if err != nil {
		return appendFailed(r, err)
	}
	receipt := &receipts[0]
	if receipt.Err != nil {
		return receiptProblem(receipt.Err)
	}
	x.Header().Set("Location", location(m.UserID, receipt.Seq))
	b := a.buffers.get()
	defer a.buffers.put(b)
	*b = append(appendReceipt(*b, m.UserID, receipt), '\n')
	return x.answer(http.StatusAccepted, *b)
}

// group is a request with several messages. Every item has either a message or
// a problem.
type group struct {
	items    []item
	messages []events.Message // of the items without a problem, in their order
}

type item struct {
	userID  string // as far as it could be read
	problem *problem
}

func (g *group) add(m *events.Message, p *problem) {
	g.items = append(g.items, item{userID: m.UserID, problem: p})
	if p == nil {
		g.messages = append(g.messages, *m)
	}
}

// readArray reads an array of messages, each of which begins as m. Each item's key
// is its own, or the request's with the item's place in the array. An item with a
// problem does not stop the others, but what is not JSON stops all.
func (a *API) readArray(in *reader, from publisher, m events.Message) (*group, *problem) {
	if err := in.token(); err != nil {
		return nil, in.malformed(err)
	}
	g := &group{}
	for in.kind() != ']' {
		if len(g.items) == maxItems && in.kind() != 0 {
			return nil, tooMany("")
		}
		d := draft{message: m}
		if m.Key != "" {
			d.message.Key = m.Key + "#" + strconv.Itoa(len(g.items))
		}
		p, err := a.parse(&d, in, &a.shapes.item)
		if err == nil {
			err = in.skipTo(1)
		}
		if err != nil {
			return nil, in.malformed(err)
		}
		if p == nil {
			p = from.reaches(d.message.UserID)
		}
		g.add(&d.message, p)
	}
	if err := in.token(); err != nil {
		return nil, in.malformed(err)
	}
	if err := in.end(); err != nil {
		return nil, in.malformed(err)
	}
	if len(g.items) == 0 {
		return nil, emptyList("")
	}
	return g, nil
}

// setUsers reads the list of users of one message. A user who is named twice would
// get the message twice, which nobody means.
func (d *draft) setUsers(in *reader) (*problem, error) {
	if in.kind() != '[' {
		_, err := in.value()
		return invalid("users", "users is a list of user ids."), err
	}
	if err := in.token(); err != nil {
		return nil, err
	}
	named := map[string]bool{}
	for in.kind() != ']' {
		if len(d.users) == maxItems && in.kind() != 0 {
			return tooMany("users"), nil
		}
		value, err := in.value()
		if err != nil {
			return nil, err
		}
		id, p := in.userID(value, "users")
		switch {
		case p != nil:
		case named[id]:
			p = invalid("users", "This user is named before in the same list, and gets the message once.")
		default:
			named[id] = true
		}
		d.users = append(d.users, item{userID: id, problem: p})
	}
	if len(d.users) == 0 {
		return emptyList("users"), nil
	}
	return nil, in.token()
}

// forUsers makes one message for many users into a group.
func (a *API) forUsers(d *draft, from publisher) (*group, *problem) {
	count := len(d.users)
	if total := int64(count) * int64(len(d.message.Payload)); total > a.cfg.MaxBodyBytes {
		return nil, &problem{kind: messageTooLarge, field: "users", limit: a.cfg.MaxBodyBytes,
			detail: "The message times its users is " + strconv.FormatInt(total, 10) + " bytes to write. Name fewer users in one request."}
	}
	g := &group{items: make([]item, 0, count), messages: make([]events.Message, 0, count)}
	for _, user := range d.users {
		m, p := d.message, user.problem
		m.UserID = user.userID
		if p == nil {
			p = from.reaches(user.userID)
		}
		g.add(&m, p)
	}
	return g, nil
}

func emptyList(field string) *problem {
	return invalid(field, "The list is empty; there is nothing to post.")
}

func tooMany(field string) *problem {
	return &problem{kind: tooManyMessages, field: field, limit: maxItems,
		detail: "The list has more than " + strconv.Itoa(maxItems) + " entries. Send it in parts; order is kept from one answered request to the next."}
}

// appendGroup appends the messages of a group and answers item by item.
func (a *API) appendGroup(x *exchange, r *http.Request, g *group) *problem {
	receipts := make([]events.Receipt, 0, len(g.messages))
	if len(g.messages) > 0 {
		var err error
		if receipts, err = a.log.Append(r.Context(), g.messages); err != nil {
			return appendFailed(r, err)
		}
	}
	b := a.buffers.get()
	defer a.buffers.put(b)
	var refused *problem
	accepted, next := 0, 0
	*b = append(*b, `{"results":[`...)
	for i := range g.items {
		if i > 0 {
			*b = append(*b, ',')
		}
		it := &g.items[i]
		var receipt *events.Receipt
		if it.problem == nil {
			receipt = &receipts[next]
			next++
			if receipt.Err != nil {
				it.problem = receiptProblem(receipt.Err)
			}
		}
		if it.problem == nil {
			accepted++
			*b = appendReceipt(*b, it.userID, receipt)
			continue
		}
		if it.problem.status >= 500 {
			a.logFailure(x, it.problem)
		}
		refused = shared(refused, it.problem)
		*b = appendRefusal(*b, it)
	}
	*b = append(*b, "]}\n"...)
	if accepted > 0 {
		return x.answer(http.StatusAccepted, *b)
	}
	refused.headers(x.Header())
	return x.write(refused.status, append(append(refused.append(nil), ','), (*b)[1:]...))
}

// shared is the problem that stands for all items when none was accepted: of
// their own kind if that is the same everywhere.
func shared(before, now *problem) *problem {
	p := &problem{kind: now.kind, limit: now.limit, detail: "None of the messages was accepted; results says why for each."}
	if before != nil && before.kind != now.kind {
		p.kind = invalidMessage
	}
	if before != nil && before.limit != now.limit {
		p.limit = 0
	}
	return p
}

func appendRefusal(b []byte, it *item) []byte {
	b = append(b, '{')
	if it.userID != "" {
		b = append(b, `"userId":`...)
		b = appendString(b, it.userID)
		b = append(b, ',')
	}
	b = append(b, `"problem":`...)
	b = it.problem.append(b)
	return append(b, '}', '}')
}

// receiptProblem is about one message that the log refused.
func receiptProblem(err error) *problem {
	p := logProblem(err, unknownMessage)
	if p.kind == internalError {
		// Postgres refused a value that was taken for valid here: the message is
		// not written, and sending it again would not help.
		return &problem{kind: invalidMessage, detail: "The event log refused this message.", cause: err}
	}
	return p
}

// appendFailed is about a whole Append that failed.
func appendFailed(r *http.Request, err error) *problem {
	if r.Context().Err() != nil {
		// The publisher hung up, or this server is being stopped hard.
		return &problem{kind: outcomeUnknown, detail: outcomeUnknownDetail, cause: err}
	}
	return logProblem(err, unknownUser)
}

// reaches reports why a publisher may not name a user.
func (from *publisher) reaches(userID string) *problem {
	if strings.HasPrefix(userID, from.userPrefix) {
		return nil
	}
	return &problem{kind: userNotAllowed, field: "userId",
		detail: "This key reaches only users whose id begins with " + strconv.Quote(from.userPrefix) + "."}
}
