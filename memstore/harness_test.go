package memstore_test

import (
	"cmp"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// operations are the names that the suite has for what clients send.
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
		New: func(testing.TB) conformance.Store {
			server := memstore.NewServer(o)
			open := func(_ testing.TB, t dcs.Timing) dcs.Backend {
				return server.Open(memstore.ClientOptions{Timing: t})
			}
			return conformance.Store{
				Open: func(tb testing.TB) dcs.Backend { return open(tb, timing) },
				OpenWith: func(tb testing.TB, o conformance.Opening) (dcs.Backend, error) {
					return open(tb, cmp.Or(o.Timing, timing)), nil
				},
				Requests: func(b dcs.Backend) int64 {
					return int64(server.Requests(memstore.Match{Client: client(b)}))
				},
				Inject: func(b dcs.Backend, f conformance.Fault) func() { return inject(server, b, f) },
				DropBookkeeping: func(tb testing.TB) {
					for _, e := range server.Entries("default") {
						if e.Key[0] == '.' && !server.Delete("default", e.Key) {
							tb.Errorf("%q could not be removed", e.Key)
						}
					}
				},
			}
		},
		NotApplicable: map[string]string{
			"Auth/*": "a store in memory asks for no credentials",
			"TLS/*":  "a store in memory has no connections",
		},
	}
}

func client(b dcs.Backend) string {
	m, ok := b.(*memstore.Backend)
	if !ok {
		panic(fmt.Sprintf("%T is no client of memstore", b))
	}
	return m.ClientName()
}

func inject(s *memstore.Server, b dcs.Backend, f conformance.Fault) (lift func()) {
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
	i := s.Inject(memstore.Match{Client: client(b), When: func(c memstore.Call) bool {
		return f.When(conformance.Request{Op: operations[c.Op], Keys: c.Keys})
	}}, verbs...)
	return func() { i.Lift(); i.Release() }
}
