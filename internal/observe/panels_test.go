package observe

func delivery() []panel {
	return []panel{
		{
			title: "Delivery jobs", unit: "ops", stack: true,
			about:   "Runs of delivery jobs by outcome. idle: all was delivered. parked: nobody is connected. early: looks again later. locked: somebody else has the stream locked, looks again. busy: all was delivered and more is expected, looks again in a minute. woken: had to wake sessions itself, so wakes were lost or clients are slow. error: failed, and is repeated.",
			queries: []query{{`sum by (outcome) (rate(restante_delivery_jobs_total{instance=~"$replica"}[$__rate_interval]))`, "{{outcome}}"}},
		},
		{
			title: "River's queue", unit: "short",
			about:   "Delivery jobs that are not finished, by state. One for each user with messages under way; retryable ones have failed.",
			queries: []query{{`max by (state) (restante_unfinished_delivery_jobs)`, "{{state}}"}},
		},
		{
			title: "Overdue delivery jobs", unit: "s", steps: []step{{0, green}, {60, red}}, line: true,
			about:   "How long the delivery job that is due the longest has not been run. More than some seconds: River does not work, or not enough.",
			queries: []query{{`max(restante_delivery_overdue_seconds)`, "overdue"}},
		},
		{
			title: "What woke sessions", unit: "ops", stack: true,
			about:   "local: a message accepted by the same replica. notify: by another one. connect: something was pending when the session began. resync: found after the listener had connected again, or the lease had lapsed. sweep and job: nobody had told it before; many of these two mean that notifications are lost.",
			queries: []query{{`sum by (source) (rate(restante_wakes_total{instance=~"$replica"}[$__rate_interval]))`, "{{source}}"}},
		},
		{
			title: "Sweep and lost notifications", unit: "ops",
			about: "Sessions that the sweep found behind; notifications that failed; users left out of notifications because too many were waiting; notifications that did not open (do all replicas have the same keyring and release?). The sweep makes up for all of them.",
			queries: []query{
				{`sum(rate(restante_sweep_found_total{instance=~"$replica"}[$__rate_interval]))`, "found by the sweep"},
				{`sum(rate(restante_notify_sent_total{instance=~"$replica", result="failed"}[$__rate_interval]))`, "notifications failed"},
				{`sum(rate(restante_notify_dropped_users_total{instance=~"$replica"}[$__rate_interval]))`, "users left out"},
				{`sum(rate(restante_notify_unopened_total{instance=~"$replica"}[$__rate_interval]))`, "notifications not opened"},
			},
		},
		{
			title: "Epoch", unit: "short",
			about: "Replicas by the epoch of the log as they know it, and how often one started anew because it changed. A change means a promoted standby or a restored backup: messages of shortly before may be missing.",
			queries: []query{
				{`count by (epoch) (restante_epoch_info{instance=~"$replica"})`, "{{epoch}}"},
				{`sum(increase(restante_epoch_changes_total{instance=~"$replica"}[$__rate_interval]))`, "changes"},
			},
		},
		{
			title: "Listener", unit: "short",
			about: "Replicas with a LISTEN connection, and how often one was established: every time, all sessions look into the log.",
			queries: []query{
				{`sum(restante_listener_up{instance=~"$replica"})`, "listening"},
				{`sum(increase(restante_listener_connects_total{instance=~"$replica"}[$__rate_interval]))`, "connected (resyncs)"},
			},
		},
		{
			title: "Heartbeats and presence", unit: "ops",
			about: "Heartbeats that failed, leases that had lapsed, sessions registered again after that, and session rows that had to be put right. All four are zero on a good day.",
			queries: []query{
				{`sum(rate(restante_heartbeats_total{instance=~"$replica", result="failed"}[$__rate_interval]))`, "heartbeats failed"},
				{`sum(rate(restante_lease_lapses_total{instance=~"$replica"}[$__rate_interval]))`, "leases lapsed"},
				{`sum(rate(restante_sessions_reattached_total{instance=~"$replica"}[$__rate_interval]))`, "sessions registered again"},
				{`sum(rate(restante_presence_repairs_total{instance=~"$replica"}[$__rate_interval]))`, "rows put right"},
			},
		},
		{
			title: "Errors that are repeated", unit: "ops",
			about: "Reads of the log and writes of acknowledged positions that failed and were done again.",
			queries: []query{
				{`sum(rate(restante_session_read_errors_total{instance=~"$replica"}[$__rate_interval]))`, "reads"},
				{`sum(rate(restante_ack_flush_errors_total{instance=~"$replica"}[$__rate_interval]))`, "acks"},
			},
		},
		{
			title: "Messages refused for a full user", unit: "ops",
			about:   "Messages that were refused because too many of their user's are pending (-max-pending-per-user). Their publishers are told; the user's clients receive nothing, or much too little.",
			queries: []query{{`sum(rate(restante_append_too_many_pending_total{instance=~"$replica"}[$__rate_interval]))`, "messages"}},
		},
		{
			title: "Locked streams", unit: "short",
			about: "Streams that somebody else's transaction had locked when they were to be written, and that were left aside and tried again on their own. Zero, or a few under traffic; a steady rate with messages that are late is a transaction that stays open: see \"oldest transaction\".",
			queries: []query{
				{`sum(rate(restante_ack_streams_locked_total{instance=~"$replica"}[$__rate_interval]))`, "acks"},
				{`sum(rate(restante_append_set_aside_total{instance=~"$replica"}[$__rate_interval]))`, "appends"},
				{`sum(restante_append_aside_requests{instance=~"$replica"})`, "appends that wait"},
				{`sum(restante_append_locked_streams{instance=~"$replica"})`, "streams"},
			},
		},
		{
			title: "Periodic jobs", unit: "short",
			about:   "Runs of trim, purge, reconcile, reap and census, by result. Each should run about once a minute, on any replica; reap six times.",
			queries: []query{{`sum by (kind, result) (increase(restante_upkeep_jobs_total{instance=~"$replica"}[$__rate_interval]))`, "{{kind}} {{result}}"}},
		},
		{
			title: "Lanes", unit: "short",
			about:   "Users by what is owed to them. idle: nothing pending. owed: a delivery job exists. parked: messages wait and nobody is connected.",
			queries: []query{{`max by (state) (restante_lanes)`, "{{state}}"}},
		},
	}
}

func postgres() []panel {
	return []panel{
		{
			title: "Connection pools", unit: "percentunit",
			about:   "The share of each replica's pools that is in use. At 100 % work waits for a connection.",
			queries: []query{{`sum by (instance, pool) (restante_db_pool_connections{instance=~"$replica", state="in_use"}) / sum by (instance, pool) (restante_db_pool_connections_max{instance=~"$replica"})`, "{{pool}} {{instance}}"}},
		},
		{
			title: "Waiting for a connection", unit: "short",
			about: "How many callers wait for a connection of the pool at any moment, on average; and how many have given up per second.",
			queries: []query{
				{`sum by (instance, pool) (rate(restante_db_pool_wait_seconds_total{instance=~"$replica"}[$__rate_interval]))`, "{{pool}} {{instance}}"},
				{`sum by (instance, pool) (rate(restante_db_pool_canceled_waits_total{instance=~"$replica"}[$__rate_interval])) > 0`, "{{pool}} {{instance}} gave up"},
			},
		},
		{
			title: "Postgres connections", unit: "short", stack: true,
			about: "Connections to the whole server, by what they do. hidden are those of other roles, if our role may not see. idle_in_transaction for long is a bug somewhere.",
			queries: []query{
				{`max by (state) (restante_postgres_connections)`, "{{state}}"},
			},
		},
		{
			title: "Lock waits and deadlocks", unit: "short",
			about: "Connections that wait for a lock right now, and deadlocks.",
			queries: []query{
				{`max(restante_postgres_lock_waits)`, "waiting"},
				{`max(increase(restante_postgres_deadlocks_total[$__rate_interval]))`, "deadlocks"},
			},
		},
		{
			title: "WAL", unit: "Bps",
			about:   "Write-ahead log that the whole server writes. It costs disk, replication and backups.",
			queries: []query{{`max(rate(restante_postgres_wal_bytes_total[$__rate_interval]))`, "written"}},
		},
		{
			title: "Transactions", unit: "ops",
			about:   "Transactions of this database per second, committed and rolled back.",
			queries: []query{{`max by (result) (rate(restante_postgres_transactions_total[$__rate_interval]))`, "{{result}}"}},
		},
		{
			title: "Dead rows", unit: "short",
			about:   "Rows that were changed or deleted and that vacuum has not removed yet. Up and down is right; only up is not.",
			queries: []query{{`max by (table) (restante_postgres_table_dead_rows)`, "{{table}}"}},
		},
		{
			title: "Since the last vacuum", unit: "s",
			about: "Time since each table was last vacuumed, and the age of the oldest open transaction: vacuum removes nothing younger than that.",
			queries: []query{
				{`max by (table) (restante_postgres_table_vacuum_age_seconds)`, "{{table}}"},
				{`max(restante_postgres_oldest_transaction_seconds)`, "oldest transaction"},
			},
		},
		{
			title: "Sizes", unit: "bytes",
			about: "The database on disk, and the rows and indexes of our tables, as of their last vacuum.",
			queries: []query{
				{`max(restante_postgres_database_bytes)`, "database"},
				{`max by (table, part) (restante_postgres_table_bytes)`, "{{table}} {{part}}"},
			},
		},
		{
			title: "Notification queue", unit: "percentunit",
			about:   "How full Postgres's queue of NOTIFY is. It fills when somebody listens and does not read.",
			queries: []query{{`max(restante_postgres_notification_queue_fullness)`, "full"}},
		},
		{
			title: "CPU", unit: "short",
			about:   "Processors that each replica keeps busy.",
			queries: []query{{`rate(process_cpu_seconds_total{job="restante", instance=~"$replica"}[$__rate_interval])`, "{{instance}}"}},
		},
		{
			title: "Memory", unit: "bytes",
			about:   "Resident memory of each replica; most of it is its connections.",
			queries: []query{{`process_resident_memory_bytes{job="restante", instance=~"$replica"}`, "{{instance}}"}},
		},
	}
}
