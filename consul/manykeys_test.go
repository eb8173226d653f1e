package consul

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"
)

// renewals is an agent that counts the requests of renewals, whose keys all exist. The
// requests of stalled sessions are not answered before release.
type renewals struct {
	*fakeAgent
	renewed, read atomic.Int64
	stalled       chan string // receives the id of each session whose renewal waits
	release       func()
}

func newRenewals(t *testing.T, stalled ...string) *renewals {
	released := make(chan struct{})
	f := &renewals{fakeAgent: newFake(t), stalled: make(chan string, len(stalled)), release: sync.OnceFunc(func() { close(released) })}
	t.Cleanup(f.release)
	waits := map[string]bool{}
	for _, id := range stalled {
		waits[id] = true
	}
	f.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Consul-Index", "7")
		switch id := path.Base(r.URL.Path); {
		case waits[id]:
			f.stalled <- id
			select {
			case <-released:
			case <-r.Context().Done():
			}
		case path.Dir(r.URL.Path) == "/v1/session/renew":
			f.renewed.Add(1)
			_ = json.NewEncoder(w).Encode([]map[string]any{{"ID": id}})
		case r.URL.Path == "/v1/txn":
			f.read.Add(1)
			f.readAll(w, r)
		case path.Dir(r.URL.Path) == "/v1/kv/t" && id != "t":
			f.read.Add(1)
			_ = json.NewEncoder(w).Encode([]api.KVPair{{Key: "t/" + id, Session: "s", CreateIndex: 5, ModifyIndex: 6}})
		default:
			_, _ = w.Write([]byte("[]"))
		}
	}
	return f
}

// readAll answers a transaction that reads keys.
func (f *renewals) readAll(w http.ResponseWriter, r *http.Request) {
	var ops []struct{ KV api.KVTxnOp }
	if err := json.NewDecoder(r.Body).Decode(&ops); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	var results []map[string]any
	for _, op := range ops {
		results = append(results, map[string]any{"KV": api.KVPair{Key: op.KV.Key, Session: "s", CreateIndex: 5, ModifyIndex: 6}})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"Results": results})
}

func keyNames(n int) []string {
	var keys []string
	for i := range n {
		keys = append(keys, fmt.Sprintf("k%05d", i))
	}
	return keys
}

// A renewal of a Session with many keys sends one request for each 120 keys, and one more.
func TestRenewalOfManyKeys(t *testing.T) {
	t.Parallel()
	a := newRenewals(t)
	b := quiet(t, a.fakeAgent)
	c, err := b.connected(a.addr())
	require.NoError(t, err)
	l := &lease{b, "s", patient.TTL}
	for _, n := range []int{2, maxReads, maxReads + 1, 5000} {
		a.renewed.Store(0)
		a.read.Store(0)
		keys := keyNames(n)
		r, err := l.confirm(whole(t), c, keys)
		require.NoError(t, err, "%d keys", n)
		require.Equal(t, n, len(r.Entries)) //nolint:testifylint // Len would print all entries
		for i, e := range r.Entries {
			require.Equal(t, keys[i], e.Key)
		}
		require.Equal(t, int64(1), a.renewed.Load(), "%d keys", n)
		require.Equal(t, int64((n+maxReads-1)/maxReads), a.read.Load(), "%d keys", n)
	}
}

// The renewal of a Session with many keys does not wait for those of other Sessions, which
// the agent does not answer.
func TestRenewalOfManyKeysWaitsForNoOther(t *testing.T) {
	t.Parallel()
	others := []string{"o1", "o2", "o3"}
	a := newRenewals(t, others...)
	b := fakeClient(t, func(c *Config) { c.Timing = patient }, a.fakeAgent)
	_, err := b.Snapshot(whole(t), "")
	require.NoError(t, err)
	c, err := b.connected(a.addr())
	require.NoError(t, err)
	renew := func(id string, keys []string) error {
		_, err := (&lease{b, id, patient.TTL}).confirm(context.WithValue(whole(t), renewingKey{}, true), c, keys)
		return err
	}
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer a.release()
	for _, id := range others {
		waiting.Go(func() { _ = renew(id, keyNames(2)) })
		<-a.stalled
	}
	require.NoError(t, renew("s", keyNames(5*maxReads)))
	require.Equal(t, int64(1), a.renewed.Load(), "the others must still wait")
}
