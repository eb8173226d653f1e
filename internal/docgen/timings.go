package main

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
	"github.com/holdfast-dcs/holdfast/internal/expiry"
	"github.com/holdfast-dcs/holdfast/zookeeper"
)

// advice is a timing that the documentation recommends for a store.
type advice struct {
	timing   dcs.Timing
	election time.Duration // the longest of the store's own, with these settings
	settings string        // of the servers; empty means their defaults
	tick     time.Duration // of ZooKeeper's servers
}

// takeover is the time from the end of a lock to the successor's Promote, at most. The
// tests of internal/failover measure it.
const takeover = 200 * time.Millisecond

// timings are the recommended timings of each store. [checkAdvice] checks them
// against the store's limits.
var timings = []struct {
	store           string
	usual, shortest advice
	shortCaps       func(ctx context.Context, t dcs.Timing) (dcs.Caps, error) // with the settings of shortest; nil means the default ones
	expiry          func(a advice) time.Duration                              // of a lock, from its last renewal
}{
	{
		"etcd3",
		advice{timing(8*time.Second, 2*time.Second, 3*time.Second), 2 * time.Second, "", 0},
		advice{timing(4*time.Second, 500*time.Millisecond, 1700*time.Millisecond), time.Second, "--election-timeout 500 --heartbeat-interval 50", 0},
		nil,
		func(a advice) time.Duration { return expiry.Etcd3(a.timing.TTL) },
	},
	{
		"consul",
		advice{timing(12*time.Second, 2*time.Second, 5*time.Second), 4500 * time.Millisecond, "raft_multiplier = 1", 0},
		advice{timing(11*time.Second, time.Second, 5*time.Second), 4500 * time.Millisecond, "raft_multiplier = 1", 0},
		nil,
		func(a advice) time.Duration { return expiry.Consul(a.timing.TTL) },
	},
	{
		"zookeeper",
		advice{timing(35*time.Second, 5*time.Second, 14*time.Second), 10600 * time.Millisecond, "tickTime=2000 syncLimit=5", 2 * time.Second},
		advice{timing(8*time.Second, time.Second, 3500*time.Millisecond), 2500 * time.Millisecond, "tickTime=100 syncLimit=8 maxSessionTimeout=60000", 100 * time.Millisecond},
		shortTicks,
		func(a advice) time.Duration { return expiry.ZooKeeper(a.timing.TTL, a.tick) },
	},
	{
		"raftstore",
		advice{dcs.DefaultTiming, 2 * time.Second, "", 0},
		advice{timing(2*time.Second, 400*time.Millisecond, 800*time.Millisecond), 600 * time.Millisecond, "", 0},
		raftCaps,
		func(a advice) time.Duration { return a.timing.TTL },
	},
}

func timing(ttl, loopWait, retryTimeout time.Duration) dcs.Timing {
	return dcs.Timing{TTL: ttl, LoopWait: loopWait, RetryTimeout: retryTimeout}
}

// shortTicks returns the limits of ZooKeeper with tickTime=100 and
// maxSessionTimeout=60000.
func shortTicks(context.Context, dcs.Timing) (dcs.Caps, error) {
	b, err := zookeeper.New(zookeeper.Config{
		Endpoints: []string{unreachable}, Root: "docs", Tick: 100 * time.Millisecond, MinTTL: 200 * time.Millisecond, MaxTTL: time.Minute,
	})
	g, err := unconnected(b, err, 0)
	return g.caps, err
}

// checkAdvice reports a timing that the store refuses, or whose calls an
// ordinary election of the store would fail.
func checkAdvice(a advice, caps dcs.Caps) error {
	if err := a.timing.Validate(caps); err != nil {
		return err
	}
	if a.timing.RetryTimeout <= a.election {
		return fmt.Errorf("RetryTimeout %v does not cover an election of %v", a.timing.RetryTimeout, a.election)
	}
	return nil
}

func renderTimings(ctx context.Context, _ string) (string, error) {
	header := []string{"Store", "Timing that outlasts an election", "Its election, at most", "Shortest sensible timing", "Its election, at most", "Shortest TTL by default"}
	var rows [][]string
	for _, t := range timings {
		g, err := grantOf(ctx, t.store)
		if err != nil {
			return "", err
		}
		short := g.caps
		if t.shortCaps != nil {
			if short, err = t.shortCaps(ctx, t.shortest.timing); err != nil {
				return "", err
			}
		}
		if err := checkAdvice(t.usual, g.caps); err != nil {
			return "", fmt.Errorf("%s: the usual timing: %w", t.store, err)
		}
		if err := checkAdvice(t.shortest, short); err != nil {
			return "", fmt.Errorf("%s: the shortest timing: %w", t.store, err)
		}
		rows = append(rows, []string{
			"`" + t.store + "`", t.usual.text(), spacedDuration(t.usual.election),
			t.shortest.text(), spacedDuration(t.shortest.election), spacedDuration(g.caps.MinTTL),
		})
	}
	return markdownTable(header, rows), nil
}

// renderTimetable shows the moments of an elector for the recommended timings.
func renderTimetable(context.Context, string) (string, error) {
	header := []string{"Store", "TTL", "Demote begins", "Time for Demote", "Fence", "The process ends", "Deadline of the lock", "Failover after `kill -9`, at most"}
	var rows [][]string
	for _, t := range timings {
		for _, a := range []advice{t.usual, t.shortest} {
			b, err := elector.Timetable(elector.Timing{Timing: a.timing})
			if err != nil {
				return "", fmt.Errorf("%s: %w", t.store, err)
			}
			row := []string{"`" + t.store + "`"}
			for _, d := range []time.Duration{a.timing.TTL, b.Demote, b.Fence - b.Demote, b.Fence, b.Guardian, b.Deadline, t.expiry(a) + takeover} {
				row = append(row, spacedDuration(d.Round(time.Millisecond)))
			}
			rows = append(rows, row)
		}
	}
	return markdownTable(header, rows), nil
}

func (a advice) text() string {
	text := fmt.Sprintf("TTL %s, LoopWait %s, RetryTimeout %s",
		spacedDuration(a.timing.TTL), spacedDuration(a.timing.LoopWait), spacedDuration(a.timing.RetryTimeout))
	if a.settings != "" {
		text += " with `" + a.settings + "`"
	}
	return text
}
