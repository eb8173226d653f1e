package etcd3

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// manyKeys stores n keys bound to a lease, and returns the lease and the names.
func manyKeys(t *testing.T, f *fakeStore, store *dcs.Store, n int) (dcs.Lease, []string) {
	t.Helper()
	l, _, err := store.Grant(t.Context(), suiteTiming.TTL)
	require.NoError(t, err)
	var keys []string
	var ops []*pb.RequestOp
	for i := range n {
		keys = append(keys, fmt.Sprintf("k%05d", i))
		put := &pb.PutRequest{Key: []byte("/t/" + keys[i]), Lease: leaseNumber(l.ID())}
		ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.apply(ops)
	return l, keys
}

// etcd accepts 128 operations in a transaction. A renewal of more keys reads them in
// several requests, and in no more than necessary.
func TestRenewalOfManyKeys(t *testing.T) {
	f := newFakeStore()
	patient := dcs.Timing{TTL: time.Minute, LoopWait: time.Second, RetryTimeout: 15 * time.Second} // a busy machine takes long
	_, store := f.client(t, Config{Timing: patient})
	l, keys := manyKeys(t, f, store, 5000)
	_, err := l.Renew(t.Context(), keys...) // after it the Pool's own first requests are done
	require.NoError(t, err)
	var requests atomic.Int64
	f.setHook(func(context.Context, any) error { requests.Add(1); return nil })
	for _, n := range []int{1, maxTxnOps, maxTxnOps + 1, 2 * maxTxnOps, 5000} {
		requests.Store(0)
		r, err := l.Renew(t.Context(), keys[:n]...)
		require.NoError(t, err, "%d keys", n)
		require.Len(t, r.Entries, n)
		for i, e := range r.Entries {
			require.Equal(t, keys[i], e.Key)
		}
		require.LessOrEqual(t, requests.Load(), int64(1+(n+maxTxnOps-1)/maxTxnOps), "%d keys", n)
	}
}

// P2: every part of the read must come back from the term of the renewal.
func TestRenewalOfManyKeysInTwoTerms(t *testing.T) {
	f := newFakeStore()
	_, store := f.client(t, Config{})
	l, keys := manyKeys(t, f, store, 2*maxTxnOps)
	f.mu.Lock()
	f.term = func(r *pb.TxnRequest) uint64 {
		if string(r.Success[0].GetRequestRange().GetKey()) == "/t/"+keys[maxTxnOps] {
			return 3
		}
		return 2
	}
	f.mu.Unlock()
	_, err := l.Renew(within(t, 700*time.Millisecond), keys...)
	require.Equal(t, dcs.ErrUnavailable, dcs.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "leader changed")
}

// A Session keeps more keys than a transaction of etcd has operations.
func TestSessionOfManyKeys(t *testing.T) {
	f := newFakeStore()
	_, store := f.client(t, Config{})
	s := newSession(t, store)
	var holds []*dcs.Hold
	for i := range maxOps + 2 {
		h, err := s.TryAcquire(t.Context(), fmt.Sprintf("k%d", i), nil)
		require.NoError(t, err)
		holds = append(holds, h)
	}
	require.NoError(t, holds[0].Confirm(within(t, prompt)))
	f.mu.Lock()
	f.apply([]*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("/t/k128")}}}})
	f.mu.Unlock()
	require.NoError(t, holds[0].Confirm(within(t, prompt)))
	require.Equal(t, dcs.ErrLost, dcs.KindOf(holds[128].Err()), "%v", holds[128].Err())
	require.NoError(t, holds[129].Err())
}
