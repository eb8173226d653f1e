package testcluster

import (
	"crypto/rand"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
)

// Site is where a backend's conformance cases work: the servers of a cluster,
// or the user's own, and a tree on them.
type Site struct {
	Cluster   *Cluster // nil: the user's own servers
	Endpoints []string
	Root      string

	shared *Shared // nil: Cluster stays
}

// SiteRoot is what every Site's Root begins with.
const SiteRoot = "holdfast/suite"

// Site is one on the shared cluster, or on the servers that the environment
// names.
func (s *Shared) Site(tb testing.TB) Site {
	if own := External(s.Options.Kind); own != nil {
		return Site{Endpoints: own}.Fresh(tb)
	}
	return Site{shared: s}.Fresh(tb)
}

// Fresh is the Site with a tree of its own, and the servers as they are now.
func (s Site) Fresh(tb testing.TB) Site {
	if s.shared != nil {
		s.Cluster = s.shared.Get(tb)
	}
	if s.Cluster != nil {
		s.Endpoints = s.Cluster.Endpoints()
	}
	s.Root = SiteRoot + "/" + strings.ToLower(rand.Text()[:10])
	return s
}

// Resolver knows the servers' names; nil where the system's does.
func (s Site) Resolver() *net.Resolver {
	if s.Cluster == nil {
		return nil
	}
	return s.Cluster.Resolver()
}

// URL returns the URL of the Site's tree, for another process too. It names
// servers by address because their names are known to this process only. The
// options are the backend's own, like "node=x".
func (s Site) URL(scheme string, t dcs.Timing, options string) string {
	addrs := s.Endpoints
	if s.Cluster != nil {
		addrs = nil
		for _, server := range s.Cluster.Servers() {
			addrs = append(addrs, server.Proxy().Addr())
		}
	}
	return fmt.Sprintf("%s://%s/%s?%s&ttl=%v&loop_wait=%v&retry_timeout=%v", scheme, strings.Join(addrs, ","), s.Root, options, t.TTL, t.LoopWait, t.RetryTimeout)
}

// Harness is a backend's whole one, but for what does not apply.
func Harness(name string, t dcs.Timing, fresh func(tb testing.TB) conformance.Store, notApplicable map[string]string) conformance.Harness {
	return conformance.Harness{
		Name: name, Timing: t, New: fresh, NotApplicable: notApplicable,
		// The servers live as long as the tests.
		Ours: []string{"conformance/fault.", "internal/testcluster."},
	}
}
