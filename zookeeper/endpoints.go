package zookeeper

import (
	"strconv"

	"github.com/holdfast-dcs/holdfast/internal/backoff"
)

// leave closes the connections to a server that the Pool does not use any more:
// at once if the server is silent, or else when the calls under way are over. A
// lease that is renewed moves with its renewals. The session of the markers is
// moved here.
func (b *Backend) leave(addr string) {
	b.links.Drop(addr)
	left := map[*session]*trackedConn{}
	b.mu.Lock()
	for _, l := range b.leases {
		if w := l.s.connection(); w != nil && w.addr == addr && (l.s.o.kept || w.silent() > 0) {
			left[l.s] = w
		}
	}
	b.mu.Unlock()
	for s, w := range left {
		b.bg.run(func() {
			if silence := w.silent(); silence < b.c.Timing.RetryTimeout {
				backoff.Sleep(b.life, b.c.Timing.RetryTimeout-silence)
			}
			if s.o.kept || w.silent() > 0 {
				s.cut(w)
			}
		})
	}
}

// identify records which server answers at the address. The first byte of a
// session's id is the number of the server that made the session. Servers of
// two ensembles have the same numbers, so the server must be known to belong to
// the store.
func (s *session) identify() {
	s.mu.Lock()
	live, id := s.live, uint64(s.last.id)>>56
	s.mu.Unlock()
	if live != nil && s.o.once && id > 0 {
		s.b.pool.Identify(live.addr, strconv.FormatUint(id, 10))
	}
}
