package consul

import (
	"encoding/json"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// A burst is read at once. After that a busy tree is read twice a second, and the
// burst of an idle tree is refilled.
func TestPollingIsBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		for _, tree := range []int{1 << 10, 100 << 10, 1 << 20, 20 << 20} {
			var p polling
			read := func(span time.Duration) (answers int) {
				for began := time.Now(); time.Since(began) < span; answers++ {
					pause := p.pause(tree)
					require.LessOrEqual(t, pause, longestPoll)
					time.Sleep(max(pause, time.Millisecond))
				}
				return answers
			}
			burst := pollBurst/tree + 1
			rate := max(pollTrees, pollLeast/tree)
			const span = 10
			answers := read(span * time.Second)
			require.LessOrEqual(t, answers, burst+span*rate+2, "%d bytes", tree) // the first pause is shorter
			require.GreaterOrEqual(t, answers, span*rate-1, "%d bytes", tree)
			time.Sleep(time.Minute)
			if tree <= 100<<10 {
				require.Zero(t, p.pause(tree))
			}
		}
	})
}

// Clients that are woken by the same Commits do not read the tree at the same time for
// long. After the burst the reads of 50 clients are spread over the time between two reads.
func TestClientsReadAtDifferentTimes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		const clients, commit = 50, 10 * time.Millisecond
		var polls [clients]polling
		var ready [clients]time.Time // when the next query of a client begins
		most := 0
		for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(commit) {
			woken := 0
			for i := range polls {
				if ready[i].After(time.Now()) {
					continue
				}
				woken++
				ready[i] = time.Now().Add(polls[i].pause(100 << 10))
			}
			if time.Since(began) > 2*time.Second {
				most = max(most, woken)
			}
		}
		require.Less(t, most, clients/3, "clients woken by one Commit")
	})
}

// A tree that changes all the time is not sent to an idle waiter with every change,
// but its last state is.
func TestBusyTreeIsNotSentWithEveryChange(t *testing.T) {
	a := newFake(t)
	value := make([]byte, 2<<10)
	var index, sent atomic.Int64
	index.Store(100)
	a.serve = func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("wait") {
			for r.URL.Query().Get("index") == strconv.FormatInt(index.Load(), 10) {
				select {
				case <-r.Context().Done():
					return
				case <-time.After(time.Millisecond):
				}
			}
		}
		now := index.Load()
		w.Header().Set("X-Consul-Index", strconv.FormatInt(now, 10))
		if r.URL.Query().Has("keys") {
			_, _ = w.Write([]byte("[]"))
			return
		}
		var pairs []api.KVPair
		for i := range 100 {
			pairs = append(pairs, api.KVPair{Key: "t/k" + strconv.Itoa(i), Value: value, CreateIndex: 5, ModifyIndex: uint64(now)})
		}
		p, _ := json.Marshal(pairs)
		sent.Add(int64(len(p)))
		_, _ = w.Write(p)
	}
	b := fakeClient(t, nil, a)
	s, err := b.Wait(t.Context(), "", 0)
	require.NoError(t, err)
	tree := sent.Load()
	const span = 2
	for began := time.Now(); time.Since(began) < span*time.Second; {
		index.Add(1)
		<-time.After(10 * time.Millisecond)
	}
	// Two more trees were read before the first query.
	require.Less(t, sent.Load(), pollBurst+(2*span+4)*tree)
	last := dcs.Revision(index.Load())
	for began := time.Now(); s.Revision < last; {
		s, err = b.Wait(t.Context(), "", s.Revision)
		require.NoError(t, err)
		require.Less(t, time.Since(began), suiteTiming.RetryTimeout/2)
	}
}

// A view does not count as lagging under many Commits, because it must reach a given
// revision and not the latest one.
func TestViewUnderManyCommitsDoesNotLag(t *testing.T) {
	a := newFake(t)
	var index, reads atomic.Int64
	index.Store(100)
	now := func(string) (int, []string) { return int(index.Load()), []string{"t/leader"} }
	a.serves(func(prefix string) (int, []string) {
		reads.Add(1)
		return now(prefix)
	}, func(prefix string) (int, []string) {
		<-time.After(50 * time.Millisecond)
		return now(prefix)
	})
	b := quiet(t, a)
	_, err := b.Wait(t.Context(), "", 0)
	require.NoError(t, err)
	a.watched()
	before := reads.Load() // the first probe of the Pool may be later
	for began := time.Now(); time.Since(began) < 3*time.Second; {
		b.copy.Saw(dcs.Revision(index.Add(1)))
		<-time.After(time.Millisecond)
	}
	require.LessOrEqual(t, reads.Load()-before, int64(1), "the view must not begin again")
}
