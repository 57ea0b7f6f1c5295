package main

import (
	"fmt"

	"restante/internal/accept"
)

const (
	// unlimited stands for no limit of open files.
	unlimited = 1 << 20
	// adminConnections is how many the admin listener holds: probes, scrapes, people.
	adminConnections = 64
	// otherFiles are for listeners, logs, keyring, issuers and what Go itself opens;
	// with -dev also for the issuer, the sample and their clients.
	otherFiles = 64
	// leastConnections is what a replica is not worth starting below.
	leastConnections = 16
)

// publicLimit is the limit of the public listener's connections: as configured, or
// else what the limit of open files leaves.
func publicLimit(cfg config, files int) (*accept.Limit, error) {
	// Two replicas' pools: one may take over from one whose history ended.
	database := 2 * (cfg.durableMax + cfg.relaxedMax + cfg.jobsMax + 4)
	left := files - adminConnections - database - otherFiles
	if cfg.dev.on {
		left -= otherFiles
	}
	most := cfg.maxConnections
	if most == 0 {
		most = left - spareConnections(left)
	}
	if need := most + spareConnections(most); most < leastConnections || need > left {
		need = max(need, leastConnections+spareConnections(leastConnections))
		return nil, fmt.Errorf("%d connections need a limit of %d open files; it is %d\nRaise it (ulimit -n, LimitNOFILE, --ulimit nofile) or lower -max-connections",
			max(most, leastConnections), need+files-left, files)
	}
	return accept.New(most, spareConnections(most)), nil
}

// spareConnections are those that are answered 503 beyond n.
func spareConnections(n int) int { return min(256, n/16+1) }
