package elector

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

const (
	// historySetting is the setting of Patroni that bounds the lines of the history.
	historySetting = "max_timelines_history"
	// defaultHistory is the bound where that is not set, and maxHistory the greatest one.
	defaultHistory = 100
	maxHistory     = 1000
	// lineTime is the format of a time in the history, which is Patroni's.
	lineTime = "2006-01-02T15:04:05.000000-07:00"
)

// history is the state of the cluster's history in the loop.
type history struct {
	line   *cluster.Line // of the present leadership, until it is stored
	at     dcs.Instant   // when the next write is due
	logged bool          // the reason why the line is not stored
}

// beginLine makes the line of a leadership that begins. One that goes on under another
// lock, or under the keeper of an earlier process, has none.
func (e *Elector) beginLine() {
	l := &e.loop
	line := cluster.Line{Timeline: int64(l.lead.Token()), Position: e.record().Position, Reason: "lock was free", Leader: e.c.Name}
	if f := l.decision.Failover; f != nil && f.Token != 0 && meant(f, e.c.Name) {
		line.Reason = fmt.Sprintf("switchover from %q", f.Leader)
	}
	l.history = history{line: &line}
}

// dateLine notes when Promote has returned.
func (e *Elector) dateLine() {
	if line := e.loop.history.line; line != nil && line.Time == "" {
		line.Time = wallClock().Format(lineTime)
	}
}

// keepHistory appends the line of the present leadership to the history, under the
// guard of the lock. A failure is no reason to demote: the write is repeated a LoopWait
// later.
func (e *Elector) keepHistory() {
	l := &e.loop
	line := l.history.line
	if line == nil || l.busy[taskHistory] || !e.reportedSince() {
		return
	}
	if l.view.Stored(cluster.HistoryKey) && l.view.History == nil {
		e.noHistory(fmt.Errorf("key %q is not readable and stays as it is: remove the key", cluster.HistoryKey))
		return
	}
	stored := l.view.History
	next := e.nextLine(stored, *line)
	if next == nil || !e.due(l.history.at) {
		return
	}
	l.history.at = dcs.Now().Add(l.timing.LoopWait)
	e.commit(taskHistory, stored.Append(*next, e.historyLimit()), func(err error) {
		switch {
		case line != l.history.line:
		case err == nil:
			l.history.line = nil
		case !errors.Is(err, dcs.ErrConflict): // otherwise the next View decides
			e.noHistory(err)
		}
	})
}

// reportedSince reports whether the service has reported since it was promoted, if it
// makes reports.
func (e *Elector) reportedSince() bool {
	_, ok := e.c.Service.(Reporter)
	return !ok || e.loop.reportOf == e.loop.generation
}

// nextLine returns the line that is to be appended to stored, or nil if it is stored or
// if the timeline of the service has not risen.
func (e *Elector) nextLine(stored cluster.History, line cluster.Line) *cluster.Line {
	var last int64
	for _, s := range stored {
		if s.Raw == nil {
			last = s.Timeline
		}
	}
	timeline := e.record().Timeline
	if timeline > 0 {
		line.Timeline = timeline - 1
	}
	switch {
	case timeline > 0 && line.Timeline <= last: // also where a report is older than the promotion
		return nil
	case line.Timeline == last: // the answer to its write was lost
		return nil
	}
	return &line
}

// historyLimit returns the number of lines that are kept.
func (e *Elector) historyLimit() int {
	var n int
	if err := json.Unmarshal(e.loop.view.Config.Extra[historySetting], &n); err != nil || n <= 0 {
		return defaultHistory
	}
	return min(n, maxHistory)
}

// noHistory logs once for each leadership why its line is not stored.
func (e *Elector) noHistory(err error) {
	if h := &e.loop.history; !h.logged {
		h.logged = true
		e.log.Warn("change of the leader is not in the cluster's history yet", "error", err)
	}
}
