package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/watchcache"
)

// renderFigures renders the times that follow from RetryTimeout where a store has several
// servers, with two examples of it.
func renderFigures(context.Context, string) (string, error) {
	header := []string{"Setting", "Value", "With R = " + spacedDuration(longBudget), "With R = " + spacedDuration(shortBudget)}
	rows := append(attemptRows(), append(serverRows(), watchRows()...)...)
	return markdownTable(header, rows), nil
}

// The examples' budgets. Of the bounds that depend on the budget the upper ones
// hold for a far longer one, and the lower ones for a far shorter one.
const (
	longBudget  = 10 * time.Second
	shortBudget = 1700 * time.Millisecond
	farLonger   = time.Hour
	farShorter  = time.Millisecond
)

// figureRow returns a row with the examples that value gives; nil means none.
func figureRow(what, text string, value func(f endpoint.Figures) string) []string {
	if value == nil {
		return []string{what, text, "", ""}
	}
	return []string{what, text, value(endpoint.FiguresFor(longBudget)), value(endpoint.FiguresFor(shortBudget))}
}

// share writes a duration of shortBudget's as a part of R.
func share(d time.Duration) string {
	return fmt.Sprintf("R/%d", int(shortBudget.Seconds()/d.Seconds()+0.5))
}

func attemptRows() [][]string {
	f := endpoint.FiguresFor(shortBudget)
	longest := endpoint.FiguresFor(farLonger)
	return [][]string{
		figureRow(fmt.Sprintf("one attempt, in the first %d rounds", f.SteadyRounds),
			fmt.Sprintf("%s, at most %s; four times the endpoint's usual latency if that is longer", share(f.AttemptFloor), spacedDuration(longest.AttemptFloor)),
			func(f endpoint.Figures) string { return spacedDuration(f.AttemptFloor) }),
		figureRow("one attempt, in later rounds", "twice as long each", laterRounds),
		figureRow("a hedge (a second copy, to another server) is sent after",
			fmt.Sprintf("four times the usual latency and its deviation; at least %s (%s for writes)", spacedDuration(f.HedgeFloor), spacedDuration(2*f.HedgeFloor)), nil),
		figureRow("hedges", fmt.Sprintf("%d at a time; a hedge that loses costs the tokens that %d calls earn", f.HedgeBurst, f.UselessHedgeCalls), nil),
		figureRow("a slow write keeps running for",
			fmt.Sprintf("%d attempt timeouts, with a second copy after the first of them; never more than a third of the remaining budget", endpoint.LateWriteFactor),
			func(f endpoint.Figures) string {
				// Settling an attempt keeps a quarter of the budget back.
				return spacedDuration(min(endpoint.LateWriteFactor*f.AttemptFloor, f.Budget*3/4/3))
			}),
	}
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

func serverRows() [][]string {
	f := endpoint.FiguresFor(shortBudget)
	shortest, longest := endpoint.FiguresFor(farShorter), endpoint.FiguresFor(farLonger)
	return [][]string{
		figureRow("a server is ejected after", fmt.Sprintf("%d failures in a row, or one that leaves no doubt", f.EjectAfter), nil),
		figureRow("an ejected server is probed every",
			fmt.Sprintf("%s, within %s and %s; up to %d times that while it fails",
				share(f.ProbeInterval), spacedDuration(shortest.ProbeInterval), spacedDuration(longest.ProbeInterval), f.MaxProbeInterval/f.ProbeInterval),
			func(f endpoint.Figures) string {
				return spacedDuration(f.ProbeInterval) + " to " + spacedDuration(f.MaxProbeInterval)
			}),
		figureRow("a server is restored after", fmt.Sprintf("%d probes in a row that the quorum answered", f.RestoreAfter), nil),
		figureRow("the members are listed, and names looked up, every",
			fmt.Sprintf("%d R, give or take half of that; soon after an ejection", f.TopologyInterval/f.Budget),
			func(f endpoint.Figures) string { return spacedDuration(f.TopologyInterval) }),
		figureRow("connections made",
			fmt.Sprintf("at most %d a second for each server list, after a burst of %d; with ZooKeeper, where each lease has its own, %d and %d",
				f.DialsPerSecond, f.DialBurst, endpoint.LeaseDialsPerSecond, endpoint.LeaseDialsPerSecond), nil),
	}
}

func watchRows() [][]string {
	every, limit := watchcache.WatchTimes(shortBudget)
	longestEvery, longestLimit := watchcache.WatchTimes(farLonger)
	return [][]string{
		figureRow("a watch without changes is probed every",
			fmt.Sprintf("min(%s, %s), and abandoned if nothing comes within one attempt", spacedDuration(longestEvery), share(every)),
			func(f endpoint.Figures) string {
				every, _ := watchcache.WatchTimes(f.Budget)
				return spacedDuration(every)
			}),
		figureRow("a watch that lags is probed after",
			fmt.Sprintf("min(%s, %s), counted from an answer that named a later revision; Consul's half a second later. It is abandoned after half of that time again, once the probe is answered", spacedDuration(longestLimit), share(limit)),
			func(f endpoint.Figures) string {
				_, limit := watchcache.WatchTimes(f.Budget)
				return spacedDuration(limit)
			}),
	}
}
