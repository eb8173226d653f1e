package etcd3

import (
	"testing"

	"github.com/holdfast-dcs/holdfast/conformance"
)

func TestConformance(t *testing.T) {
	s := newSuite(t)
	conformance.Run(t, conformance.Harness{
		Name:   "etcd3",
		Timing: suiteTiming,
		New: func(testing.TB) conformance.Store {
			return conformance.Store{
				Open: s.open, OpenWith: s.openWith, DropBookkeeping: s.dropBookkeeping,
				Requests: requests, Inject: inject, Sockets: sockets, Secure: secure,
			}
		},
		// The clusters live as long as the tests.
		Ours: []string{"conformance/fault.", "internal/testcluster."},
	})
}
