package conformance

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// hook is one field of Store that a harness may leave out.
type hook struct {
	name   string
	remove func(s *Store)
}

var hooks = []hook{
	{"OpenWith", func(s *Store) { s.OpenWith = nil }},
	{"Cluster", func(s *Store) { s.Cluster = nil }},
	{"Requests", func(s *Store) { s.Requests = nil }},
	{"Inject", func(s *Store) { s.Inject = nil }},
	{"URL", func(s *Store) { s.URL = nil }},
	{"DropBookkeeping", func(s *Store) { s.DropBookkeeping = nil }},
	{"LimitTTL", func(s *Store) { s.LimitTTL = nil }},
	{"Cluster.ReadOnly", func(s *Store) { s.changeCluster(func(c *Cluster) { c.ReadOnly = nil }) }},
	{"Cluster.RestartAll", func(s *Store) { s.changeCluster(func(c *Cluster) { c.RestartAll = nil }) }},
	{"Cluster.EndLease", func(s *Store) { s.changeCluster(func(c *Cluster) { c.EndLease = nil }) }},
}

// changeCluster gives s a changed copy of its Cluster.
func (s *Store) changeCluster(f func(c *Cluster)) {
	cluster := *s.Cluster
	f(&cluster)
	s.Cluster = &cluster
}

// requires reports whether nothing of the case can be checked without the hook.
func requires(name, hook string) bool {
	area, _, _ := strings.Cut(name, "/")
	return slices.Contains(requiredBy[hook], name) || slices.Contains(requiredBy[hook], area+"/*")
}

// usage records the hooks that a case calls.
type usage struct {
	mu   sync.Mutex
	used map[string]bool
}

func (u *usage) note(hook string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.used[hook] = true
}

// watch makes u record every hook of s that is called.
func (u *usage) watch(s Store) Store {
	out := s
	out.OpenWith = func(tb testing.TB, o Opening) (dcs.Backend, error) {
		u.note("OpenWith")
		return s.OpenWith(tb, o)
	}
	out.Requests = func(b dcs.Backend) int64 {
		u.note("Requests")
		return s.Requests(b)
	}
	out.Inject = func(b dcs.Backend, f Fault) func() {
		u.note("Inject")
		return s.Inject(b, f)
	}
	out.DropBookkeeping = func(tb testing.TB) {
		u.note("DropBookkeeping")
		s.DropBookkeeping(tb)
	}
	out.LimitTTL = func(tb testing.TB, limit time.Duration) func() {
		u.note("LimitTTL")
		return s.LimitTTL(tb, limit)
	}
	out.URL = func(tb testing.TB) string {
		u.note("URL")
		return s.URL(tb)
	}
	out.changeCluster(func(c *Cluster) {
		c.Healthy = func(tb testing.TB) {
			u.note("Cluster")
			s.Cluster.Healthy(tb)
		}
		c.ReadOnly = func(tb testing.TB) func() {
			u.note("Cluster.ReadOnly")
			return s.Cluster.ReadOnly(tb)
		}
		c.RestartAll = func(tb testing.TB) {
			u.note("Cluster.RestartAll")
			s.Cluster.RestartAll(tb)
		}
		c.EndLease = func(tb testing.TB, id dcs.LeaseID) {
			u.note("Cluster.EndLease")
			s.Cluster.EndLease(tb, id)
		}
	})
	return out
}

// changed returns h with every Store changed by f.
func (h Harness) changed(f func(s Store) Store) Harness {
	sound := h.New
	h.New = func(tb testing.TB) Store { return f(sound(tb)) }
	return h
}

// TestNoCaseHidesAMissingHook removes each hook from the cases that call it. A case must then
// fail, if it is one of those that Without returns for the hook, or its result must name the
// hook. The cases with faults of servers take most of the time and are left to the slow
// profile.
func TestNoCaseHidesAMissingHook(t *testing.T) {
	full := memHarness("memstore", memstore.Options{})
	for _, c := range table() {
		if _, na := full.notApplicable(c.Name); na || requires(c.Name, "Cluster") && !slowProfile() {
			continue
		}
		u := &usage{used: map[string]bool{}}
		o := runCase(t, full.changed(u.watch), c)
		require.Equal(t, string(passed), o.result(), "%s on a harness with every hook: %s", c.Name, first(o.failures))
		// With real time the requests that other cases cause would be counted too.
		require.True(t, !u.used["Requests"] || c.alone, "%s counts requests while other cases run", c.Name)
		for _, hook := range hooks {
			require.True(t, u.used[hook.name] || !requires(c.Name, hook.name), "%s never calls %s", c.Name, hook.name)
			if !u.used[hook.name] || c.Name == "Open/ByURL" && hook.name == "OpenWith" {
				continue // Open serves Open/ByURL as well
			}
			o := runCase(t, full.changed(func(s Store) Store { hook.remove(&s); return s }), c)
			require.Equal(t, requires(c.Name, hook.name), o.verdict == failed, "%s without %s: %s", c.Name, hook.name, first(o.failures))
			if o.verdict == failed {
				require.Contains(t, first(o.failures), "say why "+c.Name+" is not applicable")
			} else {
				require.Equal(t, []string{hook.name}, o.without, "%s passes without %s, and its result does not name the hook", c.Name, hook.name)
			}
		}
	}
}

// TestResultNamesMissingHooks checks the result of a case that left checks out, in the
// table and in the JSON lines.
func TestResultNamesMissingHooks(t *testing.T) {
	o := trial(t, true, func(e *env) {
		require.False(e, e.has(false, "Inject"))
		require.True(e, e.has(true, "Requests"))
		e.without("Caps.Rebind")
		require.False(e, e.has(false, "Inject"))
	})
	require.Equal(t, "pass, without Inject, Caps.Rebind", o.result())
	o = trial(t, true, func(e *env) {
		e.without("Inject")
		e.Error("broken")
	})
	require.Equal(t, "FAIL, without Inject", o.result())
}

func TestWithoutAnUnknownHook(t *testing.T) {
	require.PanicsWithValue(t, `conformance: Without("Injekt"): no case requires a hook of that name`, func() { Without("not yet", "Cluster", "Injekt") })
}
