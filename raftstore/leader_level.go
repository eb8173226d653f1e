package raftstore

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/remote"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// levelPause is how long a leader waits before it asks again which feature
// level the servers understand, while the cluster is below its own.
const levelPause = time.Second

// raiseLevel raises the feature level of the cluster as soon as every server
// understands a newer one. It ends with the term, or when the level is this
// release's own.
//
// A server that is replaced by one of an older release after it answered stops
// when it meets the raised level; it never makes another state.
func (t *term) raiseLevel() {
	for t.life.Err() == nil && t.l.state.Level() < t.l.understands {
		ctx, cancel := context.WithTimeout(t.life, levelPause)
		level, err := t.l.levels(ctx)
		cancel()
		if level = min(level, t.l.understands); err == nil && level > t.l.state.Level() {
			t.propose(&state.Command{Kind: state.KindLevel, Level: level})
		}
		remote.Pause(t.life, levelPause)
	}
}

// leastLevel returns the newest feature level that every server of the latest
// configuration understands. A server that does not answer may be of any
// release, so that nothing is known without it.
func (m *member) leastLevel(ctx context.Context) (byte, error) {
	least := byte(state.Level)
	for _, s := range m.servers() {
		if s.ID == m.id {
			continue
		}
		v, err := m.node.askVoice(ctx, m.addrOf(s))
		if err != nil {
			return 0, fmt.Errorf("the feature level of server %s: %w", s.ID, err)
		}
		least = min(least, v.level)
	}
	return least, nil
}
