package conformance

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// operations has the suite's names for the requests of clients.
var operations = map[memstore.Op]string{
	memstore.OpGet: "Get", memstore.OpSnapshot: "Snapshot", memstore.OpWait: "Wait", memstore.OpProbe: "Probe",
	memstore.OpCommit: "Commit", memstore.OpMark: "Mark", memstore.OpSettle: "Settle", memstore.OpRead: "Read",
	memstore.OpGrant: "Grant", memstore.OpRenew: "Renew", memstore.OpRevoke: "Revoke",
}

// memHarness runs the suite in virtual time against a Server with options o.
func memHarness(name string, o memstore.Options) Harness {
	timing := dcs.Timing{TTL: 10 * time.Second, LoopWait: 2 * time.Second, RetryTimeout: 3 * time.Second}
	return Harness{
		Name: name, Virtual: true, Timing: timing,
		New: func(tb testing.TB) Store {
			server, url := serve(tb, o, timing)
			cluster, openWith := memDoors(server, timing)
			return Store{
				Open:     func(testing.TB) dcs.Backend { return server.Open(memstore.ClientOptions{Timing: timing}) },
				OpenWith: openWith, URL: url, Cluster: cluster,
				Requests: func(b dcs.Backend) int64 {
					return int64(server.Requests(memstore.Match{Client: memClient(b)}))
				},
				Inject: func(b dcs.Backend, f Fault) func() { return memInject(server, memClient(b), f) },
				DropBookkeeping: func(tb testing.TB) {
					for _, e := range server.Entries("default") {
						if e.Key[0] == '.' && !server.Delete("default", e.Key) {
							tb.Errorf("cannot remove %q", e.Key)
						}
					}
				},
				LimitTTL: func(_ testing.TB, limit time.Duration) func() {
					server.LimitTTL(limit)
					return func() { server.LimitTTL(0) }
				},
			}
		},
		NotApplicable: map[string]string{
			"Auth/*":                   "a store in memory asks for no credentials",
			"TLS/*":                    "a store in memory has no connections",
			"Identity/*":               "the store is one server in this process: it has no address that could name another store, and keeps nothing that could be restored",
			"Rotate/AllReplaced":       "the store is one server in this process, which is never replaced and has no clock of its own",
			"Store/LeaderChange":       "the store is one server in this process, which is never replaced and has no clock of its own",
			"Clock/*":                  "the store is one server in this process, which is never replaced and has no clock of its own",
			"Holder/StaleConfirmation": "the store is one server in this process, which is never replaced and has no clock of its own",
			"Holder/PausedPastTTL":     "no other process reaches a store in memory",
		},
	}
}

// serve starts a server and returns the hook for its URL, or nil if no URL can express the
// server's options.
func serve(tb testing.TB, o memstore.Options, timing dcs.Timing) (*memstore.Server, func(testing.TB) string) {
	if o != (memstore.Options{}) {
		return memstore.NewServer(o), nil
	}
	name := strings.ToLower(rand.Text())
	url := fmt.Sprintf("mem://%s/default?ttl=%v&loop_wait=%v&retry_timeout=%v", name, timing.TTL, timing.LoopWait, timing.RetryTimeout)
	keeper, err := dcs.Open(tb.Context(), url, dcs.Options{}) // the server runs as long as it has a client
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, keeper.Close()) })
	return memstore.Shared(name), func(testing.TB) string { return url }
}

func memClient(b dcs.Backend) string {
	m, ok := b.(*memstore.Backend)
	if !ok {
		panic(fmt.Sprintf("%T is not a client of memstore", b))
	}
	return m.ClientName()
}

func memInject(s *memstore.Server, client string, f Fault) (lift func()) {
	var verbs []memstore.Fault
	switch f.Do {
	case HoldRequest:
		verbs = append(verbs, memstore.Hold())
	case HoldAnswer:
		verbs = append(verbs, memstore.HoldReply())
	case LoseRequest:
		verbs = append(verbs, memstore.Hang())
	case LoseAnswer:
		verbs = append(verbs, memstore.DropReply())
	case Repeat:
		verbs = append(verbs, memstore.Repeat())
	}
	if f.Times > 0 {
		verbs = append(verbs, memstore.Times(f.Times))
	}
	i := s.Inject(memstore.Match{Client: client, When: func(c memstore.Call) bool {
		return f.When(Request{Op: operations[c.Op], Keys: c.Keys})
	}}, verbs...)
	return func() { i.Lift(); i.Release() }
}

// dead is a door at which nothing answers.
const dead = "dead"

// memDoors presents the server's doors as separate servers. A fault of a door applies to
// the requests through it.
func memDoors(s *memstore.Server, timing dcs.Timing) (*Cluster, func(testing.TB, Opening) (dcs.Backend, error)) {
	doors := []string{"m1", "m2", "m3"}
	var opened atomic.Int64
	open := func(tb testing.TB, o Opening) (dcs.Backend, error) {
		name := fmt.Sprintf("opened with settings, %d", opened.Add(1))
		for _, f := range o.Faults {
			tb.Cleanup(memInject(s, name, f))
		}
		at := o.Endpoints
		if o.Resolver != nil { // addresses of names
			at = append([]string{dead}, doors...)
		}
		b := s.Open(memstore.ClientOptions{
			Name: name, Timing: cmp.Or(o.Timing, timing), Endpoints: at, Logger: o.Logger, Observer: o.Observer,
			AttemptTimeout: 50 * time.Millisecond, // requests that wait for no disk are answered by then
		})
		if o.Endpoints == nil && !o.Wait {
			return b, nil
		}
		for {
			ctx, cancel := context.WithTimeout(tb.Context(), cmp.Or(o.Timing, timing).RetryTimeout)
			_, err := b.Snapshot(ctx, "")
			cancel()
			if err == nil || !o.Wait {
				return b, errors.Join(err, closeIf(err != nil, b))
			}
		}
	}
	return &Cluster{
		Endpoints: doors,
		Leader:    func(testing.TB) int { return -1 },
		Healthy:   func(testing.TB) {},
		InjectFault: func(_ testing.TB, i int, t ServerFault) func() {
			fault := memstore.Hang()
			switch t.Do {
			case Killed, Stopped, Refused, ResetAll, Unresolved:
				fault = memstore.Refuse(errors.New("connection refused"))
			case Delayed:
				fault = memstore.DelayReply(t.Delay)
			}
			return s.Inject(memstore.Match{Endpoint: doors[i]}, fault).Lift
		},
		DeadAddresses: func(tb testing.TB) *net.Resolver {
			tb.Cleanup(s.Inject(memstore.Match{Endpoint: dead}, memstore.Hang()).Lift)
			return net.DefaultResolver
		},
		Refusals: map[string]func(testing.TB, int) func(){"too many requests": func(_ testing.TB, i int) func() {
			return s.Inject(memstore.Match{Endpoint: doors[i]}, memstore.Refuse(errors.New("too many requests"))).Lift
		}},
		ReadOnly: func(testing.TB) func() {
			s.ReadOnly(true)
			return func() { s.ReadOnly(false) }
		},
		RestartAll: func(testing.TB) { s.Down(); s.Up() },
		EndLease:   func(_ testing.TB, id dcs.LeaseID) { s.EndLease(id) },
	}, open
}

func closeIf(failed bool, b *memstore.Backend) error {
	if !failed {
		return nil
	}
	return b.Close()
}
