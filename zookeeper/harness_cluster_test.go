package zookeeper

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/harness"
)

// faults returns the servers for the suite's fault cases.
func (s *suite) faults() *conformance.Cluster {
	if s.Cluster == nil {
		return nil
	}
	c := harness.Faults(s.Cluster)
	c.EndLease = s.endLease
	c.Refusals = map[string]func(testing.TB, int) func(){"an unknown user": func(_ testing.TB, i int) func() {
		at := s.Endpoints[i]
		s.refusing.Store(at, zk.ErrAuthFailed)
		return func() { s.refusing.Delete(at) }
	}}
	c.ReadOnly = func(tb testing.TB) func() {
		heal, err := s.Cluster.ZooKeeperReadOnly(append(parents("/"+s.Root), "/"+s.Root))
		require.NoError(tb, err)
		once := sync.OnceFunc(func() { require.NoError(tb, heal()) })
		tb.Cleanup(once)
		return once
	}
	c.Replace = func(tb testing.TB, i int) string {
		require.NoError(tb, s.Cluster.Replace(context.Background(), i))
		return s.Cluster.Endpoints()[i]
	}
	if testcluster.CanStepClocks() {
		c.StepClock = func(tb testing.TB, by time.Duration) { require.NoError(tb, s.Cluster.StepClocks(by)) }
	}
	return c
}

// endLease ends a lease of any of the suite's clients, like a third party that
// has the session's password.
func (s *suite) endLease(tb testing.TB, id dcs.LeaseID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.clients {
		l := b.lease(id)
		if l == nil {
			continue
		}
		g, seen := l.s.identity()
		ctx, cancel := context.WithTimeout(context.Background(), suiteTiming.RetryTimeout)
		defer cancel()
		// A server closes the connection as long as its data are older than
		// the client's.
		for err := error(errBroken); err != nil; {
			require.NoError(tb, ctx.Err(), "%v", err)
			err = endSessionAt(ctx, s.Cluster.Servers()[0].Direct(), g, seen)
		}
		return
	}
	tb.Fatalf("no client of the suite has the lease %s", id)
}

// endSessionAt resumes a session at a server, and ends it.
func endSessionAt(ctx context.Context, addr string, g granted, seen dcs.Revision) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	now, err := ask(conn, g, int64(seen))
	switch {
	case err != nil:
		return err
	case now.refused:
		return errExpired
	}
	return endSession(conn)
}

// late connects to the first server, for requests that must arrive after their
// sender has given them up.
func (s *session) late(string, string, time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), suiteTiming.RetryTimeout)
	defer cancel()
	return s.b.dialer.DialContext(ctx, "tcp", s.b.c.Endpoints[0])
}
