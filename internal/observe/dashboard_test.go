package observe

// rows are the dashboard, in the order in which one asks at night.
func rows() []row {
	return []row{
		{"Do messages get through?", append(headlines(), throughput()...)},
		{"How fast?", speed()},
		{"Who is connected?", connections()},
		{"What hurts? Delivery", delivery()},
		{"What hurts? Postgres and replicas", postgres()},
	}
}

// headlines are the numbers to look at first.
func headlines() []panel {
	return []panel{
		{
			kind: stat, title: "Alerts firing", width: 4, height: 4, unit: "short", steps: []step{{0, green}, {1, red}},
			about:   "How many alerts fire right now. The timeline below names them; deploy/RUNBOOK.md says what to do about each.",
			queries: []query{{`count(ALERTS{alertname=~"Restante.+", alertstate="firing"}) or vector(0)`, "alerts"}},
		},
		{
			kind: stat, title: "Oldest message waiting", width: 4, height: 4, unit: "s", steps: []step{{0, green}, {10, yellow}, {60, red}},
			about:   "How long the message has been waiting that waits the longest for a user who is connected. Users who are away do not count. Looked up once a minute.",
			queries: []query{{`max(restante_pending_oldest_seconds)`, "oldest"}},
		},
		{
			kind: stat, title: "Posts that fail", width: 4, height: 4, unit: "percentunit", steps: []step{{0, green}, {0.001, yellow}, {0.01, red}},
			about:   "The share of back ends' posts that were answered with an error of ours (5xx).",
			queries: []query{{`(sum(rate(restante_http_requests_total{route=~"/v1/messages|/message", code=~"5.."}[$__rate_interval])) or vector(0)) / sum(rate(restante_http_requests_total{route=~"/v1/messages|/message"}[$__rate_interval]))`, "failed"}},
		},
		{
			kind: stat, title: "Replicas", width: 4, height: 4, unit: "short", steps: []step{{0, red}, {1, yellow}, {2, green}},
			about: "Replicas whose metrics can be fetched, and how many more there were for most of the last hour. With a single one there is nobody to take over.",
			queries: []query{
				{`count(up{job="restante"} == 1) or vector(0)`, "up"},
				{`ceil(clamp_min(quantile_over_time(0.9, count(up{job="restante"} == 1)[1h:]) - (count(up{job="restante"} == 1) or vector(0)), 0))`, "missing"},
			},
			own: map[string][]step{"missing": {{0, green}, {1, yellow}}},
		},
		{
			kind: stat, title: "Connections", width: 4, height: 4, unit: "short", steps: []step{{0, green}},
			about:   "Client connections open now, over all replicas.",
			queries: []query{{`sum(restante_sessions)`, "open"}},
		},
		{
			kind: stat, title: "Pending messages", width: 4, height: 4, unit: "short", steps: []step{{0, green}},
			about:   "Messages that nobody has acknowledged yet, most of them for users who are away. Counted once a minute.",
			queries: []query{{`max(restante_pending_messages)`, "pending"}},
		},
	}
}

func throughput() []panel {
	return []panel{
		{
			title: "Accepted, written, acknowledged", unit: "ops",
			about: "Messages committed to the log, messages written to connections, and acknowledgements: only those are deliveries. Written lags behind while users are away, and exceeds accepted when users have several connections or come back to a backlog. One acknowledgement may be for several messages; that of a backlog from before the connection is not counted.",
			queries: []query{
				{`sum(rate(restante_append_messages_total{instance=~"$replica"}[$__rate_interval]))`, "accepted"},
				{`sum(rate(restante_session_messages_written_total{instance=~"$replica"}[$__rate_interval]))`, "written"},
				{`sum(rate(restante_append_to_ack_seconds_count{instance=~"$replica"}[$__rate_interval]))`, "acknowledged"},
				{`sum(rate(restante_append_repeated_total{instance=~"$replica"}[$__rate_interval]))`, "repeated (idempotency key)"},
			},
		},
		{
			title: "Oldest message waiting", unit: "s", steps: []step{{0, green}, {60, red}}, line: true,
			about: "How long somebody who is connected has been waiting for a message, at the last census; and how old that census is. A census older than five minutes says nothing.",
			queries: []query{
				{`max(restante_pending_oldest_seconds)`, "oldest waiting"},
				{`min(restante_census_age_seconds)`, "age of the census"},
			},
		},
		{
			title: "Pending", unit: "short",
			about: "What is in the log and not acknowledged, mostly for users who are away. A steady rise with a steady number of users means messages that nobody comes for.",
			queries: []query{
				{`max(restante_pending_messages)`, "messages"},
				{`max(restante_pending_users)`, "users"},
			},
		},
		{
			title: "Answers to back ends", unit: "reqps", stack: true,
			about:   "Posts by the status they were answered with. 202 is accepted; 4xx is the back end's to mend; 503 means retry; 499 hung up first.",
			queries: []query{{`sum by (code) (rate(restante_http_requests_total{route=~"/v1/messages|/message", instance=~"$replica"}[$__rate_interval]))`, "{{code}}"}},
		},
		{
			title: "Appends that failed", unit: "ops",
			about:   "Why messages were not accepted: overloaded (queue full), unavailable (Postgres), outcome_unknown (the commit's answer was lost), data (a value Postgres refuses). lost_race is repeated and harmless.",
			queries: []query{{`sum by (reason) (rate(restante_append_errors_total{instance=~"$replica"}[$__rate_interval]))`, "{{reason}}"}},
		},
		{
			title: "Expired, trimmed, gaps", unit: "short",
			about: "Messages deleted unread because their time was up; delivered ones deleted after the retention; gaps that clients were told of, because what they asked for is gone; and times that trim left a locked or refused stream for later.",
			queries: []query{
				{`sum(increase(restante_events_expired_total{instance=~"$replica"}[$__rate_interval]))`, "expired"},
				{`sum(increase(restante_events_trimmed_total{instance=~"$replica"}[$__rate_interval]))`, "trimmed"},
				{`sum(increase(restante_session_gaps_total{instance=~"$replica"}[$__rate_interval]))`, "gaps"},
				{`sum(increase(restante_trim_skipped_total{instance=~"$replica"}[$__rate_interval]))`, "left for later"},
			},
		},
		{
			kind: timeline, title: "Alerts", width: 24, height: 6, unit: "short",
			about:   "Which alerts were firing when. Empty is good.",
			queries: []query{{`max by (alertname) (ALERTS{alertname=~"Restante.+", alertstate="firing"})`, "{{alertname}}"}},
		},
	}
}

func speed() []panel {
	quantiles := func(metric string) []query {
		var all []query
		for _, q := range []struct{ value, name string }{{"0.5", "half of them"}, {"0.95", "95 %"}, {"0.99", "99 %"}} {
			all = append(all, query{`histogram_quantile(` + q.value + `, sum by (le) (rate(` + metric + `_bucket{instance=~"$replica"}[$__rate_interval])))`, q.name})
		}
		return all
	}
	return []panel{
		{
			kind: heatmap, title: "Append to write", unit: "s",
			about:   "How long messages took from their commit to the write to a connection, for users who were connected. A second band at 2 s is wakes that were lost, found by the sweep.",
			queries: []query{{`sum by (le) (increase(restante_append_to_write_seconds_bucket{instance=~"$replica"}[$__rate_interval]))`, "{{le}}"}},
		},
		{
			kind: heatmap, title: "Append to acknowledgement", unit: "s",
			about:   "The same until the client had acknowledged the message: with the network to the client and the client's own time.",
			queries: []query{{`sum by (le) (increase(restante_append_to_ack_seconds_bucket{instance=~"$replica"}[$__rate_interval]))`, "{{le}}"}},
		},
		{
			title: "Append to write, quantiles", unit: "s", steps: []step{{0, green}, {1, red}}, line: true,
			about:   "Half, 95 % and 99 % of the messages were written to a connection within this time after their commit.",
			queries: quantiles("restante_append_to_write_seconds"),
		},
		{
			title: "Append to acknowledgement, quantiles", unit: "s",
			about:   "Half, 95 % and 99 % of the messages were acknowledged within this time after their commit.",
			queries: quantiles("restante_append_to_ack_seconds"),
		},
		{
			title: "Group commit", unit: "s", steps: []step{{0, green}, {0.5, red}}, line: true,
			about:   "Time of the transactions that write messages. A publisher waits for up to two of them. This is mostly Postgres's fsync.",
			queries: quantiles("restante_append_commit_seconds"),
		},
		{
			title: "Requests, 99 %", unit: "s",
			about:   "99 % of the HTTP requests of each route were answered within this time.",
			queries: []query{{`histogram_quantile(0.99, sum by (le, route) (rate(restante_http_request_seconds_bucket{instance=~"$replica"}[$__rate_interval])))`, "{{route}}"}},
		},
		{
			title: "Messages per commit", unit: "short",
			about:   "How many messages one commit writes on average. It grows with the load; 1024 is the most.",
			queries: []query{{`sum by (instance) (rate(restante_append_batch_messages_sum{instance=~"$replica"}[$__rate_interval])) / sum by (instance) (rate(restante_append_batch_messages_count{instance=~"$replica"}[$__rate_interval]))`, "{{instance}}"}},
		},
		{
			title: "Waiting for a commit", unit: "bytes",
			about:   "Payload that waits to be committed. At 128 MiB of large requests, or 32 MiB of small ones, posts of the publishers that have most of it are refused with 503.",
			queries: []query{{`restante_append_queue_bytes{instance=~"$replica"}`, "{{instance}}"}},
		},
		{
			title: "Posts over their publisher's rate", unit: "reqps",
			about:   "Posts answered 429 because their credential posts more messages, or bytes, a second than it may. msg keys list shows the rates of keys, msg keys rate changes them.",
			queries: []query{{`sum by (unit) (rate(restante_publisher_rate_limited_total{instance=~"$replica"}[$__rate_interval]))`, "{{unit}}"}},
		},
		{
			title: "Publishers waiting for a commit", unit: "short",
			about:   "Credentials whose messages wait to be committed. They share the commits equally, whatever each of them sends.",
			queries: []query{{`restante_append_queue_publishers{instance=~"$replica"}`, "{{instance}}"}},
		},
		{
			title: "Reads and acks, 99 %", unit: "s",
			about: "99 % of the reads of the log, of the writes of acknowledged positions, and of the sweeps took no longer than this.",
			queries: []query{
				{`histogram_quantile(0.99, sum by (le) (rate(restante_read_seconds_bucket{instance=~"$replica"}[$__rate_interval])))`, "read"},
				{`histogram_quantile(0.99, sum by (le) (rate(restante_ack_flush_seconds_bucket{instance=~"$replica"}[$__rate_interval])))`, "ack"},
				{`histogram_quantile(0.99, sum by (le) (rate(restante_sweep_seconds_bucket{instance=~"$replica"}[$__rate_interval])))`, "sweep"},
			},
		},
	}
}

func connections() []panel {
	return []panel{
		{
			title: "By transport", unit: "short", stack: true,
			about:   "Connections open, by what they speak: plain text frames or restante.v1.",
			queries: []query{{`sum by (transport) (restante_sessions{instance=~"$replica"})`, "{{transport}}"}},
		},
		{
			title: "By replica", unit: "short", stack: true,
			about:   "Connections open on each replica. After a deploy they even out within the maximum age of a session.",
			queries: []query{{`sum by (instance) (restante_sessions{instance=~"$replica"})`, "{{instance}}"}},
		},
		{
			title: "Room for connections", unit: "percentunit",
			about: "Connections a replica holds, of publishers too, as a share of what it may hold; and how many a second ended for want of room. silent: closed for another before a request came. full: answered 503. dropped: not answered.",
			queries: []query{
				{`restante_connections{instance=~"$replica"} / restante_connections_limit{instance=~"$replica"}`, "{{instance}}"},
				{`sum by (reason) (rate(restante_connections_refused_total{instance=~"$replica"}[$__rate_interval])) > 0`, "{{reason}} per second"},
			},
		},
		{
			title: "Churn", unit: "ops",
			about: "Connections opened and ended per second. Ending is ordinary: after the maximum age, at a drain, when a client goes.",
			queries: []query{
				{`sum(rate(restante_sessions_opened_total{instance=~"$replica"}[$__rate_interval]))`, "opened"},
				{`sum(rate(restante_sessions_closed_total{instance=~"$replica"}[$__rate_interval]))`, "ended"},
			},
		},
		{
			title: "Why connections ended", unit: "ops", stack: true,
			about:   "client: it left. lost: it did not answer any more. max_age and drain: we asked it to come back. no_ack: it did not acknowledge in time. stalled: it stopped reading. no_room: it did not read, and its memory was needed. violation: it sent what it must not. flood: it sent too much.",
			queries: []query{{`sum by (reason) (rate(restante_sessions_closed_total{instance=~"$replica"}[$__rate_interval]))`, "{{reason}}"}},
		},
		{
			title: "Slow clients", unit: "short",
			about:   "Connections that are full because their clients read more slowly than messages come. They stay behind in the log, and end after the ack timeout without progress.",
			queries: []query{{`sum(restante_sessions_blocked{instance=~"$replica"})`, "full"}},
		},
		{
			title: "Kept for slow clients", unit: "bytes",
			about:   "Partly written messages of full connections. At -unwritten-bytes (64 MiB a replica) those connections end whose clients have read nothing for longest.",
			queries: []query{{`sum by (instance) (restante_unwritten_bytes{instance=~"$replica"})`, "{{instance}}"}},
		},
		{
			title: "Who was refused", unit: "ops",
			about: "Attempts to connect that were refused, by reason: tokens that are used up, expired or foreign; too many connections of one user; a draining replica; Postgres not answering.",
			queries: []query{
				{`sum by (reason) (rate(restante_connect_refused_total{instance=~"$replica"}[$__rate_interval]))`, "{{reason}}"},
				{`sum by (reason) (rate(restante_sessions_refused_total{instance=~"$replica"}[$__rate_interval]))`, "session: {{reason}}"},
			},
		},
		{
			title: "Tokens and sign-in", unit: "ops",
			about: "Single-use tokens issued and used up, and checks of the identity provider's tokens, by result. unavailable is Postgres (tokens) or the identity provider (sign-in).",
			queries: []query{
				{`sum by (result) (rate(restante_tokens_issued_total{instance=~"$replica"}[$__rate_interval]))`, "issued: {{result}}"},
				{`sum by (result) (rate(restante_tokens_redeemed_total{instance=~"$replica"}[$__rate_interval])) > 0`, "redeemed: {{result}}"},
				{`sum by (kind, result) (rate(restante_identity_checks_total{instance=~"$replica"}[$__rate_interval])) > 0`, "{{kind}}: {{result}}"},
			},
		},
	}
}
