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
	buffer := a.buffers.get()
	defer a.buffers.put(buffer)
	if p := a.readBody(x, r, buffer); p != nil {
		return p
	}
	if p := validJSON(*buffer); p != nil {
		return p
	}
	body := trim(*buffer)
	trace := traceparent(r.Header)
	if arrays && body[0] == '[' {
		g, p := a.readArray(body, from, key, trace)
		if p != nil {
			return p
		}
		return a.appendGroup(x, r, g)
	}

	d := draft{message: events.Message{Publisher: from.name, Key: key, Traceparent: trace}}
	if p := a.parse(&d, body, s); p != nil {
		return p
	}
	if d.users != nil {
		g, p := a.readUsers(&d, from)
		if p != nil {
			return p
		}
		return a.appendGroup(x, r, g)
	}
	if p := from.reaches(d.message.UserID); p != nil {
		return p
	}
	return a.appendOne(x, r, &d.message)
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

// appendOne appends one message and answers with its receipt.
func (a *API) appendOne(x *exchange, r *http.Request, m *events.Message) *problem {
	receipts, err := a.log.Append(r.Context(), []events.Message{*m})
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

// readArray reads an array of messages. Each item's key is its own, or the
// request's with the item's place in the array.
func (a *API) readArray(body []byte, from publisher, key, trace string) (*group, *problem) {
	count := 0
	for w := walk(body); ; count++ {
		if _, ok := w.element(); !ok {
			break
		}
	}
	if p := checkCount(count, ""); p != nil {
		return nil, p
	}
	g := &group{items: make([]item, 0, count), messages: make([]events.Message, 0, count)}
	w := walk(body)
	for i := range count {
		value, _ := w.element()
		d := draft{message: events.Message{Publisher: from.name, Traceparent: trace}}
		if key != "" {
			d.message.Key = key + "#" + strconv.Itoa(i)
		}
		p := a.parse(&d, value, &a.shapes.item)
		if p == nil {
			p = from.reaches(d.message.UserID)
		}
		g.add(&d.message, p)
	}
	return g, nil
}

// readUsers makes one message for many users into a group. A user who is named
// twice would get the message twice, which nobody means.
func (a *API) readUsers(d *draft, from publisher) (*group, *problem) {
	count := 0
	for w := walk(d.users); ; count++ {
		if _, ok := w.element(); !ok {
			break
		}
	}
	if p := checkCount(count, "users"); p != nil {
		return nil, p
	}
	if total := int64(count) * int64(len(d.message.Payload)); total > a.cfg.MaxBodyBytes {
		return nil, &problem{kind: messageTooLarge, field: "users", limit: a.cfg.MaxBodyBytes,
			detail: "The message times its users is " + strconv.FormatInt(total, 10) + " bytes to write. Name fewer users in one request."}
	}
	g := &group{items: make([]item, 0, count), messages: make([]events.Message, 0, count)}
	named := make(map[string]bool, count)
	w := walk(d.users)
	for range count {
		value, _ := w.element()
		m := d.message
		id, p := userID(value, "users")
		m.UserID = id
		switch {
		case p != nil:
		case named[id]:
			p = invalid("users", "This user is named before in the same list, and gets the message once.")
		default:
			named[id] = true
			p = from.reaches(id)
		}
		g.add(&m, p)
	}
	return g, nil
}

func checkCount(n int, field string) *problem {
	switch {
	case n == 0:
		return invalid(field, "The list is empty; there is nothing to post.")
	case n > maxItems:
		return &problem{kind: tooManyMessages, field: field, limit: maxItems,
			detail: "The list has " + strconv.Itoa(n) + " entries. Send it in parts; order is kept from one answered request to the next."}
	}
	return nil
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
	p := &problem{kind: now.kind, detail: "None of the messages was accepted; results says why for each."}
	if before != nil && before.kind != now.kind {
		p.kind = invalidMessage
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
