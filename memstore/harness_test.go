package memstore_test

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

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// operations maps the requests of clients to the names in the suite.
var operations = map[memstore.Op]string{
	memstore.OpGet: "Get", memstore.OpSnapshot: "Snapshot", memstore.OpWait: "Wait", memstore.OpProbe: "Probe",
	memstore.OpCommit: "Commit", memstore.OpMark: "Mark", memstore.OpSettle: "Settle", memstore.OpRead: "Read",
	memstore.OpGrant: "Grant", memstore.OpRenew: "Renew", memstore.OpRevoke: "Revoke",
}

// harness runs the suite in virtual time against a Server with options o.
func harness(name string, o memstore.Options) conformance.Harness {
	timing := dcs.Timing{TTL: 10 * time.Second, LoopWait: 2 * time.Second, RetryTimeout: 3 * time.Second}
	return conformance.Harness{
		Name: name, Virtual: true, Timing: timing,
		New: func(tb testing.TB) conformance.Store {
			server, url := serve(tb, o, timing)
			cluster, openWith := endpoints(server, timing)
			return conformance.Store{
				Open:     func(testing.TB) dcs.Backend { return server.Open(memstore.ClientOptions{Timing: timing}) },
				OpenWith: openWith, URL: url, Cluster: cluster,
				Requests: func(b dcs.Backend) int64 {
					return int64(server.Requests(memstore.Match{Client: client(b)}))
				},
				Inject: func(b dcs.Backend, f conformance.Fault) func() { return inject(server, client(b), f) },
				DropBookkeeping: func(tb testing.TB) {
					for _, e := range server.Entries("default") {
						if e.Key[0] == '.' && !server.Delete("default", e.Key) {
							tb.Errorf("%q could not be removed", e.Key)
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
			"Rotate/AllReplaced":       "the store is one server in this process: no other leads, none is replaced, none has a clock of its own",
			"Store/LeaderChange":       "the store is one server in this process: no other leads, none is replaced, none has a clock of its own",
			"Identity/*":               "the store is one server in this process: it has no address that could name another store, and keeps nothing that could be restored",
			"Clock/*":                  "the store is one server in this process: no other leads, none is replaced, none has a clock of its own",
			"Holder/StaleConfirmation": "the store is one server in this process: no other leads, none is replaced, none has a clock of its own",
			"Holder/PausedPastTTL":     "no other process reaches a store in memory",
		},
	}
}

// serve starts a server and returns the hook for its URL, or nil if no URL can express
// the server's options.
func serve(tb testing.TB, o memstore.Options, timing dcs.Timing) (*memstore.Server, func(testing.TB) string) {
	if o != (memstore.Options{}) {
		return memstore.NewServer(o), nil
	}
	name := strings.ToLower(rand.Text())
	url := fmt.Sprintf("mem://%s/default?ttl=%v&loop_wait=%v&retry_timeout=%v", name, timing.TTL, timing.LoopWait, timing.RetryTimeout)
	keeper, err := dcs.Open(tb.Context(), url, dcs.Options{}) // keeps the server open
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, keeper.Close()) })
	return memstore.Shared(name), func(testing.TB) string { return url }
}

func client(b dcs.Backend) string {
	m, ok := b.(*memstore.Backend)
	if !ok {
		panic(fmt.Sprintf("%T is no client of memstore", b))
	}
	return m.ClientName()
}

func inject(s *memstore.Server, client string, f conformance.Fault) (lift func()) {
	var verbs []memstore.Fault
	switch f.Do {
	case conformance.HoldRequest:
		verbs = append(verbs, memstore.Hold())
	case conformance.HoldAnswer:
		verbs = append(verbs, memstore.HoldReply())
	case conformance.LoseRequest:
		verbs = append(verbs, memstore.Hang())
	case conformance.LoseAnswer:
		verbs = append(verbs, memstore.DropReply())
	case conformance.Repeat:
		verbs = append(verbs, memstore.Repeat())
	}
	if f.Times > 0 {
		verbs = append(verbs, memstore.Times(f.Times))
	}
	i := s.Inject(memstore.Match{Client: client, When: func(c memstore.Call) bool {
		return f.When(conformance.Request{Op: operations[c.Op], Keys: c.Keys})
	}}, verbs...)
	return func() { i.Lift(); i.Release() }
}

// dead is an endpoint at which nothing answers.
const dead = "dead"

// endpoints presents the server's endpoints as servers. A fault of one of them applies to the
// calls that go through it.
func endpoints(s *memstore.Server, timing dcs.Timing) (*conformance.Cluster, func(testing.TB, conformance.Opening) (dcs.Backend, error)) {
	endpoints := []string{"m1", "m2", "m3"}
	var opened atomic.Int64
	open := func(tb testing.TB, o conformance.Opening) (dcs.Backend, error) {
		name := fmt.Sprintf("opened with settings, %d", opened.Add(1))
		for _, f := range o.Faults {
			tb.Cleanup(inject(s, name, f))
		}
		at := o.Endpoints
		if o.Resolver != nil { // addresses of names
			at = append([]string{dead}, endpoints...)
		}
		b := s.Open(memstore.ClientOptions{
			Name: name, Timing: cmp.Or(o.Timing, timing), Endpoints: at, Logger: o.Logger, Observer: o.Observer,
			AttemptTimeout: 50 * time.Millisecond, // enough for any answer, because no request waits for a disk
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
	return &conformance.Cluster{
		Endpoints: endpoints,
		Leader:    func(testing.TB) int { return -1 },
		Healthy:   func(testing.TB) {},
		InjectFault: func(_ testing.TB, i int, t conformance.ServerFault) func() {
			fault := memstore.Hang()
			switch t.Do {
			case conformance.Killed, conformance.Stopped, conformance.Refused, conformance.ResetAll, conformance.Unresolved:
				fault = memstore.Refuse(errors.New("connection refused"))
			case conformance.Delayed:
				fault = memstore.DelayReply(t.Delay)
			}
			return s.Inject(memstore.Match{Endpoint: endpoints[i]}, fault).Lift
		},
		DeadAddresses: func(tb testing.TB) *net.Resolver {
			tb.Cleanup(s.Inject(memstore.Match{Endpoint: dead}, memstore.Hang()).Lift)
			return net.DefaultResolver
		},
		Refusals: map[string]func(testing.TB, int) func(){"too many requests": func(_ testing.TB, i int) func() {
			return s.Inject(memstore.Match{Endpoint: endpoints[i]}, memstore.Refuse(errors.New("too many requests"))).Lift
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
