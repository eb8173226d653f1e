package raftstore

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/backoff"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// levelPause is the time after which a leader asks the servers again which feature
// level they understand, while the cluster is below its own.
const levelPause = time.Second

// raiseLevel raises the feature level of the cluster as soon as every server
// understands a newer one. It ends with the term, or when the level is that of this
// release.
//
// If a server is replaced by one of an older release after it answered, the older one
// stops when it reads the raised level. Its state never diverges.
func (t *term) raiseLevel() {
	for t.life.Err() == nil && t.l.state.Level() < t.l.understands {
		ctx, cancel := context.WithTimeout(t.life, levelPause)
		level, err := t.l.levels(ctx)
		cancel()
		if level = min(level, t.l.understands); err == nil && level > t.l.state.Level() {
			t.propose(&state.Command{Kind: state.KindLevel, Level: level})
		}
		backoff.Sleep(t.life, levelPause)
	}
}

// leastLevel returns the newest feature level that every server of the latest
// configuration understands. It fails if a server does not answer, because that one
// may be of any release.
func (m *member) leastLevel(ctx context.Context) (byte, error) {
	least := byte(state.Level)
	for _, s := range m.servers() {
		if s.ID == m.id {
			continue
		}
		v, err := m.node.askVoterState(ctx, m.addrOf(s))
		if err != nil {
			return 0, fmt.Errorf("the feature level of server %s: %w", s.ID, err)
		}
		least = min(least, v.level)
	}
	return least, nil
}
