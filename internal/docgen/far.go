package main

import (
	"context"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// roundTrips are those that the documentation has settings of raftstore for.
var roundTrips = []time.Duration{
	10 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond,
}

// farProfile returns the settings of raftstore for nodes that are a round trip
// apart. docs/operations.md says why.
func farProfile(roundTrip time.Duration) (heartbeat time.Duration, t dcs.Timing) {
	heartbeat = max(300*time.Millisecond, 5*roundTrip)
	t.RetryTimeout = 4*heartbeat + 10*roundTrip
	t.LoopWait = t.RetryTimeout
	t.TTL = t.LoopWait + 2*t.RetryTimeout
	return heartbeat, t
}

func renderFar(ctx context.Context, _ string) (string, error) {
	header := []string{"Round trip", "HeartbeatTimeout, ElectionTimeout", "A new leader, at most", "RetryTimeout, LoopWait", "TTL, at least"}
	var rows [][]string
	for _, d := range roundTrips {
		heartbeat, t := farProfile(d)
		caps, err := raftCaps(ctx, t)
		if err != nil {
			return "", err
		}
		if err := checkAdvice(advice{timing: t, election: 4 * heartbeat}, caps); err != nil {
			return "", err
		}
		rows = append(rows, []string{
			spacedDuration(d), spacedDuration(heartbeat), spacedDuration(4 * heartbeat), spacedDuration(t.RetryTimeout), spacedDuration(t.TTL),
		})
	}
	return markdownTable(header, rows), nil
}
