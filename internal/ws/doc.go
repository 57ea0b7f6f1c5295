// Package ws carries a session over WebSocket (RFC 6455), in two modes:
//
//   - plain, without a subprotocol or with one that only carries a token: each text frame is a message and nothing else.
//     It is confirmed by the WebSocket itself: after each write the server sends a
//     ping that names the last seq, and the pong proves that the client's stack
//     has taken every frame before it. What the client sends is ignored.
//   - restante.v1: JSON frames (hello, message, gap, bye), confirmed by the
//     client's ack frames. Any other frame ends the session with 1008.
//
// Handshake, reading and closing are github.com/coder/websocket's. Outgoing data
// and ping frames are put together here: several messages go out in one write,
// and a ping can be sent without waiting for its pong.
//
// A connection keeps one goroutine, its reader, and two small buffers: the 4 KiB
// ones of net/http go with the request. (8 KiB each instead of 27.)
//
// A slow client keeps its connection (I7). Messages go out in pieces of 16 KiB. What the
// socket does not take within 50 ms is not waited for: the connection keeps the rest of
// the one message that was begun, and the session reads the others again when there is
// room. A session ends when its client has neither taken in bytes nor confirmed a
// message for the write timeout. What all full connections keep together is bounded
// (Config.MaxUnwritten); beyond it, those end that have stood still for longest.
//
// On failure of the connection the session ends and its client comes back; what
// it had not confirmed is still in the log.
package ws
