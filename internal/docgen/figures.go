package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/remote"
)

// renderFigures renders what follows from RetryTimeout where a store has several
// servers, with two examples of it.
func renderFigures(context.Context, string) (string, error) {
	long, short := endpoint.FiguresFor(10*time.Second), endpoint.FiguresFor(1700*time.Millisecond)
	both := func(value func(f endpoint.Figures) string) []string { return []string{value(long), value(short)} }
	every := func(f endpoint.Figures) string { d, _ := remote.WatchTimes(f.Budget); return spacedDuration(d) }
	limit := func(f endpoint.Figures) string { _, d := remote.WatchTimes(f.Budget); return spacedDuration(d) }
	none := []string{"", ""}
	rows := []struct {
		what, value string
		examples    []string
	}{
		{
			fmt.Sprintf("one attempt, in the first %d rounds", long.SteadyRounds),
			fmt.Sprintf("R/6, at most %s; four times the endpoint's usual latency if that is longer", spacedDuration(long.MaxAttemptFloor)),
			both(func(f endpoint.Figures) string { return spacedDuration(f.AttemptFloor) }),
		},
		{"one attempt, in later rounds", "twice as long each", both(laterRounds)},
		{
			"a hedge (a second copy, to another server) is sent after",
			fmt.Sprintf("four times the usual latency and its deviation; at least %s (%s for writes)", spacedDuration(long.HedgeFloor), spacedDuration(2*long.HedgeFloor)), none,
		},
		{"hedges", fmt.Sprintf("%d at a time; a hedge that loses costs what %d calls earn", long.HedgeBurst, long.UselessHedgeCalls), none},
		{
			"a slow write keeps running for",
			fmt.Sprintf("%d attempt timeouts, with a second copy after the first of them; never more than a third of the remaining budget", endpoint.Patience),
			both(func(f endpoint.Figures) string {
				// Settling an attempt keeps a quarter of the budget back.
				return spacedDuration(min(endpoint.Patience*f.AttemptFloor, f.Budget*3/4/3))
			}),
		},
		{"a server is ejected after", fmt.Sprintf("%d failures in a row, or one that leaves no doubt", long.EjectAfter), none},
		{
			"an ejected server is probed every",
			fmt.Sprintf("R/10, within 100 ms and 1 s; up to %d times that while it fails", long.MaxProbeInterval/long.ProbeInterval),
			both(func(f endpoint.Figures) string {
				return spacedDuration(f.ProbeInterval) + " to " + spacedDuration(f.MaxProbeInterval)
			}),
		},
		{"a server is restored after", fmt.Sprintf("%d probes in a row that the quorum answered", long.RestoreAfter), none},
		{
			"the members are listed every", "3 R, give or take half of that; soon after an ejection",
			both(func(f endpoint.Figures) string { return spacedDuration(f.TopologyInterval) }),
		},
		{"a watch without changes is probed every", "min(2.5 s, R/4), and abandoned after the same time again", both(every)},
		{"a watch that lags is abandoned after", "min(500 ms, R/6), counted from an answer that named a later revision", both(limit)},
		{
			"connections made",
			fmt.Sprintf("at most %d a second for each server list, after a burst of %d; with ZooKeeper, where each lease has its own, %d and %d",
				long.DialsPerSecond, long.DialBurst, endpoint.LeaseDialsPerSecond, endpoint.LeaseDialsPerSecond), none,
		},
	}
	var cells [][]string
	for _, r := range rows {
		cells = append(cells, append([]string{r.what, r.value}, r.examples...))
	}
	return markdownTable([]string{"What", "Value", "With R = " + spacedDuration(long.Budget), "With R = " + spacedDuration(short.Budget)}, cells), nil
}

// laterRounds lists the attempts' times of the rounds that double and fit into
// the budget.
func laterRounds(f endpoint.Figures) string {
	var times []string
	left := f.Budget - time.Duration(f.SteadyRounds)*f.AttemptFloor
	for d := 2 * f.AttemptFloor; d < left && len(times) < 3; d *= 2 {
		times, left = append(times, spacedDuration(d)), left-d
	}
	return strings.Join(times, ", ")
}
