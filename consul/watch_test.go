package consul

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// serves makes an agent answer every list with the keys and the index that consistent or
// blocking returns.
func (f *fakeAgent) serves(consistent, blocking func(prefix string) (index int, keys []string)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.serve = func(w http.ResponseWriter, r *http.Request) {
		answer := blocking
		if r.URL.Query().Has("consistent") {
			answer = consistent
		}
		prefix := strings.TrimPrefix(r.URL.Path, "/v1/kv/")
		if r.URL.Query().Has("wait") {
			f.waits.Add(1)
		}
		index, keys := answer(prefix)
		for r.URL.Query().Has("wait") && r.URL.Query().Get("index") == strconv.Itoa(index) {
			select {
			case <-r.Context().Done():
				return
			case <-time.After(time.Millisecond):
				index, keys = answer(prefix)
			}
		}
		w.Header().Set("X-Consul-Index", strconv.Itoa(index))
		pairs := []api.KVPair{}
		names := []string{}
		for _, k := range keys {
			if strings.HasPrefix(k, prefix) {
				pairs = append(pairs, api.KVPair{Key: k, CreateIndex: 5, ModifyIndex: 5})
				names = append(names, k)
			}
		}
		if r.URL.Query().Has("keys") {
			_ = json.NewEncoder(w).Encode(names)
			return
		}
		_ = json.NewEncoder(w).Encode(pairs)
	}
}

// watched waits until the agent has received a blocking query.
func (f *fakeAgent) watched() {
	for f.waits.Load() == 0 {
		<-time.After(time.Millisecond)
	}
}

// An answer with another tree than the copy comes from a lagging server if its index
// is not newer than the copy, or missing. No Wait may return it under a revision that
// Consul never had, because a Session would then report a held lock as lost.
func TestOlderTreeGetsNoRevision(t *testing.T) {
	for _, index := range []int{0, 1, 90, 100} {
		t.Run(strconv.Itoa(index), func(t *testing.T) {
			t.Parallel()
			a := newFake(t)
			lagging := make(chan struct{})
			tree := func(string) (int, []string) { return 100, []string{"t/leader"} }
			a.serves(tree, func(prefix string) (int, []string) {
				select {
				case <-lagging:
					return index, nil
				default:
					return tree(prefix)
				}
			})
			b := fakeClient(t, func(c *Config) {
				c.Timing = dcs.Timing{TTL: 3 * time.Second, LoopWait: time.Second, RetryTimeout: time.Second}
			}, a)
			s, err := b.Wait(budget(t), "", 0)
			require.NoError(t, err)
			require.Equal(t, dcs.Revision(100), s.Revision)
			a.watched()
			close(lagging)
			a.CloseClientConnections() // the blocking query is sent again
			ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
			defer cancel()
			s, err = b.Wait(ctx, "", s.Revision)
			require.Error(t, err, "%+v", s)
		})
	}
}

// A deletion that Consul has forgotten does not change the index below the root. The copy
// applies it at the index of the whole store, which the deletion has increased.
func TestForgottenDeletionIsSeen(t *testing.T) {
	a := newFake(t)
	gone := make(chan struct{})
	tree := func(prefix string) (int, []string) {
		keys := []string{"t/a", "t/leader"}
		select {
		case <-gone:
			if prefix != "t/" {
				return 130, nil // the index of the whole store
			}
			return 100, keys[:1]
		default:
			return 100, keys
		}
	}
	var broken atomic.Bool
	a.serves(tree, func(prefix string) (int, []string) {
		select {
		case <-gone:
			if broken.CompareAndSwap(false, true) {
				return 0, nil // makes the view begin again
			}
		default:
		}
		return tree(prefix)
	})
	b := fakeClient(t, nil, a)
	ctx, cancel := context.WithTimeout(t.Context(), suiteTiming.RetryTimeout)
	defer cancel()
	s, err := b.Wait(ctx, "", 0)
	require.NoError(t, err)
	a.watched()
	close(gone)
	s, err = b.Wait(ctx, "leader", s.Revision)
	require.NoError(t, err)
	require.Empty(t, s.Entries)
	require.Equal(t, dcs.Revision(130), s.Revision)
}
