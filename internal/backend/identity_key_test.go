package backend

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A client has made the key at one server. Most seeds, which have answered before and are
// slow now, decide whether that is the server of another store.
func TestSlowSeedsDecideAboutANewKey(t *testing.T) {
	identify(t, map[string]string{"a": "", "b": "", "c": ""}, func(t *testing.T, i *Identity, s *stores, _ *strings.Builder) {
		require.NoError(t, i.Ready(t.Context()))
		synctest.Wait() // for the third answer
		s.set("a", "x")
		s.mu.Lock()
		s.delay = identityBudget/2 - time.Millisecond
		s.mu.Unlock()
		require.ErrorContains(t, i.Check(t.Context(), "a", "x"), "belongs to store x")
		require.Empty(t, i.ID())
		s.set("b", "y")
		s.set("c", "y")
		require.NoError(t, i.Check(t.Context(), "b", "y"))
		require.Equal(t, "y", i.ID())
	})
}

// The copies of the request that made the key find it one after the other, while the seeds are
// polled. That hides no seed's answer that it has no identity, and a poll whose answers do not
// count decides nothing.
func TestKeyIsFoundDuringAPoll(t *testing.T) {
	for name, polls := range map[string]int{"again": 2, "for the first time": 3} {
		t.Run(name, func(t *testing.T) {
			polling := polls == 3 // already, when the key is made
			identify(t, map[string]string{"a": "", "b": "", "c": ""}, func(t *testing.T, i *Identity, s *stores, _ *strings.Builder) {
				require.NoError(t, i.Ready(t.Context()))
				synctest.Wait() // for the third answer
				s.mu.Lock()
				s.delay = identityBudget / 8
				s.mu.Unlock()
				if polling {
					i.requestPoll()
					go i.Await(t.Context())
					synctest.Wait()
				}
				s.set("a", "x")
				var copies sync.WaitGroup
				for range 2 {
					copies.Go(func() { require.Error(t, i.Check(t.Context(), "a", "x")) })
					time.Sleep(identityBudget / 16)
				}
				copies.Wait()
				require.Equal(t, 3*polls, s.asked)
				require.Empty(t, i.ID())
				s.set("b", "y")
				s.set("c", "y")
				require.NoError(t, i.Check(t.Context(), "b", "y"))
				require.Equal(t, "y", i.ID())
			})
			identify(t, map[string]string{"a": "", "b": "", "c": ""}, func(t *testing.T, i *Identity, s *stores, _ *strings.Builder) {
				require.NoError(t, i.Ready(t.Context()))
				synctest.Wait()
				s.mu.Lock()
				s.delay = identityBudget / 8
				s.mu.Unlock()
				if polling {
					i.requestPoll()
					go i.Await(t.Context())
					synctest.Wait()
				}
				for _, at := range []string{"a", "b", "c"} {
					s.set(at, "x")
				}
				require.NoError(t, i.Check(t.Context(), "a", "x"), "the key is in the Store's own store")
				require.Equal(t, "x", i.ID())
			})
		})
	}
}

// Seeds that have not answered before are not waited for again.
func TestSilentSeedsDelayNoNewKey(t *testing.T) {
	identify(t, map[string]string{"a": ""}, func(t *testing.T, i *Identity, s *stores, _ *strings.Builder) {
		require.NoError(t, i.Ready(t.Context()))
		s.set("a", "x")
		began := time.Now()
		require.NoError(t, i.Check(t.Context(), "a", "x"))
		require.Equal(t, "x", i.ID())
		require.Equal(t, identityBudget/4, time.Since(began))
	})
}
