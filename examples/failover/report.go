package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/holdfast-dcs/holdfast/examples/internal/event"
)

// report prints the table and says whether a guarantee was broken.
func (s *show) report() (broken bool) {
	j := s.h.judge()
	var faults []string
	fault := func(n int, text string) {
		if n > 0 {
			faults = append(faults, fmt.Sprintf("%d %s", n, text))
		}
	}
	fault(j.Overlaps, fmt.Sprintf("times two members were primary at once (the longest %v)", j.Overlap))
	fault(j.Fell, "tokens did not rise")
	fault(j.Repeated, "tokens were announced twice")
	fault(j.Late, "primaries had not stopped by the end of their lock")
	fault(s.missing, "acknowledged writes were lost")
	stale, moved := 0, 0
	for _, r := range s.results {
		stale += r.staleAccepted
		if r.act == "store-leader" && r.without > 0 {
			moved++
		}
	}
	fault(stale, "writes under an old token were accepted")
	fault(moved, "times the leader fell with the Raft leader, which was another member")
	if s.out.json != nil {
		s.reportJSON(faults)
	} else {
		s.out.close()
		s.table(s.out.w, faults)
	}
	return len(faults) > 0
}

// reportJSON prints one summary an act and one of the whole run.
func (s *show) reportJSON(faults []string) {
	for _, r := range s.results {
		e := event.Event{Event: event.Summary, Act: r.act, Figures: map[string]int64{
			"without_leader_ns":    int64(r.without),
			"longest_pause_ns":     int64(r.pause),
			"acknowledged":         int64(r.writes),
			"lost_writes":          int64(r.lost),
			"two_primaries":        int64(r.overlaps),
			"stale_writes_allowed": int64(r.staleAccepted),
			"new_tokens":           int64(len(r.tokens)),
		}}
		s.out.json.Emit(e)
	}
	verdict := "every guarantee held"
	if len(faults) > 0 {
		verdict = "BROKEN: " + strings.Join(faults, "; ")
	}
	s.out.json.Emit(event.Event{Event: event.Summary, Reason: verdict, Figures: map[string]int64{
		"acknowledged": int64(s.w.count()), "lost_writes": int64(s.missing), "broken": int64(len(faults)),
	}})
}

func (s *show) table(w io.Writer, faults []string) {
	_, _ = fmt.Fprintf(w, "\nTTL %v, three nodes, one machine\n\n", s.o.ttl)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(t, "act\twithout a leader\tclient's longest pause\twrites\tlost writes\ttwo primaries\ttokens\t")
	for _, r := range s.results {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%d\t%s\t\n", r.act, ms(r.without), ms(r.pause),
			r.writes, r.lost, r.overlaps, tokens(r.tokens))
	}
	_ = t.Flush()
	if len(faults) == 0 {
		_, _ = fmt.Fprintf(w, "\n%d writes were acknowledged and all of them are there; tokens only rose; never were two members primary at once.\n",
			s.w.count())
		return
	}
	_, _ = fmt.Fprintf(w, "\nBROKEN: %s\n", strings.Join(faults, "; "))
}

func ms(d time.Duration) string {
	if d == 0 {
		return "0"
	}
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

func tokens(ts []uint64) string {
	if len(ts) == 0 {
		return "kept"
	}
	out := make([]string, len(ts))
	for i, t := range ts {
		out[i] = fmt.Sprint(t)
	}
	return strings.Join(out, " < ")
}
