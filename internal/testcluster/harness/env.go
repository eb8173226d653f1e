// Package harness adapts the servers of package testcluster to package conformance, for
// the tests of the backends.
package harness

import (
	"crypto/rand"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// Env is the environment of a backend's conformance cases. It consists of the servers of
// a cluster, or external ones, and a tree on them.
type Env struct {
	Cluster   *testcluster.Cluster // nil for external servers
	Endpoints []string
	Root      string

	shared *testcluster.Shared // nil if Cluster never changes
}

// EnvRoot is the common prefix of the Root of every Env.
const EnvRoot = "holdfast/suite"

// NewEnv returns an Env on the shared cluster, or on the servers of
// [testcluster.External].
func NewEnv(tb testing.TB, s *testcluster.Shared) Env {
	if own := testcluster.External(s.Options.Kind); own != nil {
		return Env{Endpoints: own}.Fresh(tb)
	}
	return Env{shared: s}.Fresh(tb)
}

// Fresh returns a copy of the Env with a new tree and the current servers.
func (s Env) Fresh(tb testing.TB) Env {
	if s.shared != nil {
		s.Cluster = s.shared.Get(tb)
	}
	if s.Cluster != nil {
		s.Endpoints = s.Cluster.Endpoints()
	}
	s.Root = EnvRoot + "/" + strings.ToLower(rand.Text()[:10])
	return s
}

// Resolver returns the resolver for the names of the servers. Nil means the system's.
func (s Env) Resolver() *net.Resolver {
	if s.Cluster == nil {
		return nil
	}
	return s.Cluster.Resolver()
}

// URL returns the URL of the Env's tree, which other processes may use too. It has the
// addresses of the servers, because only this process can resolve their names. options are
// those of the backend, such as "node=x".
func (s Env) URL(scheme string, t dcs.Timing, options string) string {
	addrs := s.Endpoints
	if s.Cluster != nil {
		addrs = nil
		for _, server := range s.Cluster.Servers() {
			addrs = append(addrs, server.Proxy().Addr())
		}
	}
	return fmt.Sprintf("%s://%s/%s?%s&ttl=%v&loop_wait=%v&retry_timeout=%v", scheme, strings.Join(addrs, ","), s.Root, options, t.TTL, t.LoopWait, t.RetryTimeout)
}

// New returns the harness of a backend. The cases in notApplicable are not run.
func New(name string, t dcs.Timing, fresh func(tb testing.TB) conformance.Store, notApplicable map[string]string) conformance.Harness {
	return conformance.Harness{
		Name: name, Timing: t, New: fresh, NotApplicable: notApplicable,
		// The goroutines of the servers run as long as the tests.
		Ours: []string{"conformance/fault.", "internal/testcluster."},
	}
}
