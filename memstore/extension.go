package memstore

import (
	"slices"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// extension is the life that a Grant or one renewal gave to a lease.
type extension struct {
	made     dcs.Instant // when the request arrived
	life     time.Duration
	until    dcs.Instant
	answered bool // the client has the answer
}

// grantable returns the TTL that a client which requests ttl is granted now. Called
// under s.mu.
func (s *Server) grantable(ttl time.Duration) time.Duration {
	if s.limit > 0 {
		ttl = min(ttl, s.limit)
	}
	return min(max(ttl, s.o.MinTTL), s.o.MaxTTL)
}

// answered records that the client of lease id has the answer to a renewal that it sent
// at from.
func (s *Server) answered(rootName string, id dcs.LeaseID, x *extension, from dcs.Instant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l, ok := s.root(rootName).leases[id]; ok {
		l.answered(x, from)
	}
}

// extend extends l to live for life from now, and never shortens it, because the client
// may not get the answer.
func (l *lease) extend(life time.Duration) *extension {
	now := dcs.Now()
	x := &extension{made: now, life: life, until: now.Add(life)}
	l.extensions = append(slices.DeleteFunc(l.extensions, func(o *extension) bool { return !x.until.Before(o.until) }), x)
	l.schedule()
	return x
}

// answered records that the client has the answer to the renewal that it sent at from
// and that made x. Renewals that it sent earlier do not count any more (P3), so that the
// lease may end sooner now. An extension whose answer is still on its way counts if its
// renewal may have been sent later.
func (l *lease) answered(x *extension, from dcs.Instant) {
	if from.Before(l.counted) {
		return // the client relies on a renewal that it sent later
	}
	l.counted, x.answered = from, true
	l.extensions = append(slices.DeleteFunc(l.extensions, func(o *extension) bool { return o.answered || o.made.Before(from) }), x)
	l.schedule()
}

// restart starts the time of each extension again.
func (l *lease) restart() {
	now := dcs.Now()
	for _, x := range l.extensions {
		x.until = now.Add(x.life)
	}
}

// schedule makes l end with the last of its extensions.
func (l *lease) schedule() {
	l.until = dcs.Instant{}
	for _, x := range l.extensions {
		if l.until.Before(x.until) {
			l.until = x.until
		}
	}
	l.timer.Reset(max(l.until.Sub(dcs.Now()), 0))
}
