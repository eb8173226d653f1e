package etcd3

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/harness"
)

// prompt is far less than the budget. A call that returns within it did not wait for the
// end of the budget.
const prompt = 2 * time.Second

// requireFull checks the error of a call on a store without space.
func requireFull(t *testing.T, err error) {
	t.Helper()
	require.Equal(t, dcs.ErrUnavailable, dcs.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "space")
	require.ErrorContains(t, err, "alarm", "the error must name the remedy")
}

// P10, P14: etcd applies the transaction that crosses its quota and answers with NOSPACE.
// The outcome is unclear, and the marker proves that it was applied.
func TestWriteThatCrossesTheQuotaIsSettled(t *testing.T) {
	f := newFakeStore()
	_, store := f.client(t, Config{})
	s := newSession(t, store)
	_, err := store.Commit(t.Context(), dcs.Txn{Then: []dcs.Write{dcs.Put("warm", nil)}}) // makes the marker
	require.NoError(t, err)
	f.setSpace(almostFull)
	h, err := s.TryAcquire(within(t, prompt), "leader", []byte("a"))
	require.NoError(t, err)
	require.Equal(t, f.key("leader").CreateRevision, int64(h.Token()))
	require.True(t, h.Valid())
}

// P11: on a full store the marker is won by deleting it, so that a refused Commit fails
// definitely and at once.
func TestFullStoreRefusesForCertain(t *testing.T) {
	f := newFakeStore()
	b, store := f.client(t, Config{})
	_, err := store.Commit(t.Context(), dcs.Txn{Then: []dcs.Write{dcs.Put("warm", nil)}})
	require.NoError(t, err)
	f.setSpace(isFull)
	for range 2 { // with a marker, then without
		_, err = store.Commit(within(t, prompt), dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
		requireFull(t, err)
	}
	require.Nil(t, f.key("k"))
	entries, _, err := b.snapshot(within(t, prompt), ".op")
	require.NoError(t, err)
	require.Empty(t, entries.Entries, "the marker was deleted")
	f.setSpace(hasSpace)
	_, err = store.Commit(within(t, prompt), dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.NoError(t, err)
}

// A copy that was given up on a full store and arrives once there is space is refused,
// because its marker was deleted.
func TestLateCopyAfterAFullStore(t *testing.T) {
	f := newFakeStore()
	_, store := f.client(t, Config{})
	_, err := store.Commit(t.Context(), dcs.Txn{Then: []dcs.Write{dcs.Put("warm", nil)}})
	require.NoError(t, err)
	f.setSpace(isFull)
	var late atomic.Pointer[pb.TxnRequest]
	f.setHook(func(_ context.Context, r any) error {
		if txn, ok := r.(*pb.TxnRequest); ok && len(txn.Success) > 1 {
			late.Store(txn)
		}
		return nil
	})
	_, err = store.Commit(within(t, prompt), dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	requireFull(t, err)
	f.setSpace(hasSpace)
	r, err := f.Txn(t.Context(), late.Load())
	require.NoError(t, err)
	require.False(t, r.Succeeded)
	require.Nil(t, f.key("k"))
}

// On a full store, Holds stay valid, Release frees the lock, and Acquire returns an error
// that names the remedy. All calls succeed again as soon as the store has space.
func TestFullStoreHoldsAndReleases(t *testing.T) {
	f := newFakeStore()
	_, store := f.client(t, Config{})
	s, other := newSession(t, store), newSession(t, store)
	kept, err := s.TryAcquire(t.Context(), "kept", nil)
	require.NoError(t, err)
	var released []*dcs.Hold
	for _, key := range []string{"a", "b", "c"} { // more than there are markers
		h, err := s.TryAcquire(t.Context(), key, nil)
		require.NoError(t, err)
		released = append(released, h)
	}
	f.setSpace(isFull)
	for _, h := range released {
		require.NoError(t, h.Release(within(t, prompt)))
		require.Nil(t, f.key(h.Key()))
	}
	require.NoError(t, kept.Confirm(within(t, prompt)))
	require.True(t, kept.Valid())
	_, err = other.Acquire(within(t, 3*prompt), "a", nil)
	requireFull(t, err)
	f.setSpace(hasSpace)
	h, err := s.Acquire(within(t, 2*time.Second), "a", nil)
	require.NoError(t, err)
	require.True(t, h.Valid())
	require.NoError(t, kept.Update(within(t, prompt), []byte("new")))
	require.NoError(t, kept.Release(within(t, prompt)))
}

// P10: a removal without a marker whose answer is lost may have been applied. It is
// repeated, and does not fail definitely.
func TestRemovalOnAFullStoreWithALostAnswer(t *testing.T) {
	for name, applied := range map[string]bool{"applied": true, "lost": false} {
		t.Run(name, func(t *testing.T) {
			f := newFakeStore()
			_, store := f.client(t, Config{})
			rev, err := store.Commit(t.Context(), dcs.Txn{Then: []dcs.Write{dcs.Put("a", nil)}})
			require.NoError(t, err)
			f.setSpace(isFull)
			var lost atomic.Bool
			f.setHook(func(_ context.Context, r any) error {
				if txn, ok := r.(*pb.TxnRequest); !ok || puts(txn) || !removes(txn, "/t/a") || lost.Swap(true) {
					return nil
				}
				if applied {
					_, err := f.Txn(context.Background(), r.(*pb.TxnRequest))
					require.NoError(t, err)
				}
				return status.Error(codes.Unavailable, "etcdserver: request timed out")
			})
			_, err = store.Commit(within(t, 30*prompt), dcs.Txn{If: []dcs.Cond{dcs.CreatedAt("a", rev)}, Then: []dcs.Write{dcs.Delete("a")}})
			require.True(t, lost.Load())
			require.Nil(t, f.key("a"))
			if !applied {
				require.NoError(t, err)
				return
			}
			var e *dcs.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, dcs.ErrAmbiguous, e.Kind)
			require.True(t, e.Fenced)
		})
	}
}

func removes(r *pb.TxnRequest, key string) bool {
	return slices.ContainsFunc(r.Success, func(op *pb.RequestOp) bool { return string(op.GetRequestDeleteRange().GetKey()) == key })
}

// A removal that stays unclear can be settled.
func TestRemovalOnAFullStoreIsSettled(t *testing.T) {
	f := newFakeStore()
	_, store := f.client(t, Config{})
	rev, err := store.Commit(t.Context(), dcs.Txn{Then: []dcs.Write{dcs.Put("a", nil)}})
	require.NoError(t, err)
	f.setSpace(isFull)
	var down atomic.Bool
	down.Store(true)
	f.setHook(func(_ context.Context, r any) error {
		if txn, ok := r.(*pb.TxnRequest); ok && down.Load() && removes(txn, "/t/a") && !puts(txn) {
			return status.Error(codes.Unavailable, "etcdserver: request timed out")
		}
		return nil
	})
	_, err = store.Commit(within(t, prompt), dcs.Txn{If: []dcs.Cond{dcs.CreatedAt("a", rev)}, Then: []dcs.Write{dcs.Delete("a")}})
	var e *dcs.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, dcs.ErrAmbiguous, e.Kind)
	down.Store(false)
	_, err = store.Settle(within(t, prompt), e)
	require.NoError(t, err)
	require.Nil(t, f.key("a"))
}

// P7, P13: only transactions of which at most one copy can be applied are sent without a
// marker.
func TestOnlyDeletionsOfARevisionGoWithoutAMarker(t *testing.T) {
	f := newFakeStore()
	_, store := f.client(t, Config{})
	rev, err := store.Commit(t.Context(), dcs.Txn{Then: []dcs.Write{dcs.Put("a", nil), dcs.Put("b", nil)}})
	require.NoError(t, err)
	f.setSpace(isFull)
	for name, txn := range map[string]dcs.Txn{
		"unconditional": {Then: []dcs.Write{dcs.Delete("a")}},
		"of another":    {If: []dcs.Cond{dcs.CreatedAt("b", rev)}, Then: []dcs.Write{dcs.Delete("a")}},
		"absent":        {If: []dcs.Cond{dcs.Absent("c")}, Then: []dcs.Write{dcs.Delete("c"), dcs.Delete("a")}},
		"and a put":     {If: []dcs.Cond{dcs.CreatedAt("a", rev)}, Then: []dcs.Write{dcs.Delete("a"), dcs.Put("b", nil)}},
	} {
		_, err := store.Commit(within(t, prompt), txn)
		require.Equal(t, dcs.ErrUnavailable, dcs.KindOf(err), "%s: %v", name, err)
		require.NotNil(t, f.key("a"), name)
	}
	txn := dcs.Txn{If: []dcs.Cond{dcs.CreatedAt("a", rev+1)}, Then: []dcs.Write{dcs.Delete("a")}}
	_, err = store.Commit(within(t, prompt), txn)
	require.Equal(t, dcs.ErrConflict, dcs.KindOf(err), "%v", err)
	txn.If[0].Is = rev
	_, err = store.Commit(within(t, prompt), txn)
	require.NoError(t, err)
	require.Nil(t, f.key("a"))
}

// A Grant that crosses the quota makes a lease, which is revoked before the Grant
// fails as refused.
func TestGrantThatCrossesTheQuotaIsRevoked(t *testing.T) {
	f := newFakeStore()
	_, store := f.client(t, Config{})
	f.setSpace(almostFull)
	_, err := store.NewSession(within(t, prompt), dcs.SessionOptions{})
	requireFull(t, err)
	require.Zero(t, f.leaseCount())
	_, err = store.NewSession(within(t, prompt), dcs.SessionOptions{})
	requireFull(t, err)
	f.setHook(func(_ context.Context, r any) error {
		if _, ok := r.(*pb.LeaseRevokeRequest); ok {
			return status.Error(codes.Unavailable, "etcdserver: request timed out")
		}
		return nil
	})
	_, err = store.NewSession(within(t, prompt), dcs.SessionOptions{})
	require.Equal(t, dcs.ErrAmbiguous, dcs.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "space")
}

// On a real server, the answers while it fills up are correct, a Hold outlives the alarm,
// a Release frees the lock, an Acquire that waits for it gets an error that names the space,
// and every call succeeds within two seconds of disarming.
func TestRealStoreRunsFull(t *testing.T) {
	t.Parallel()
	c := testcluster.New(t, testcluster.Options{
		Kind: testcluster.Etcd, Version: os.Getenv("HOLDFAST_ETCD_VERSION"), Nodes: 1, Loopback: true, Flags: []string{"--quota-backend-bytes", fmt.Sprint(8 << 20)},
	})
	s := (&suite{Env: harness.Env{Cluster: c}}).fresh(t)
	store, err := dcs.New(s.open(t), dcs.Options{Timing: suiteTiming})
	require.NoError(t, err)
	defer store.Close()
	session, other := newSession(t, store), newSession(t, store)
	kept, err := session.Acquire(t.Context(), "kept", nil)
	require.NoError(t, err)
	given, err := session.Acquire(t.Context(), "given", nil)
	require.NoError(t, err)

	waiter := newSession(t, store)
	waited := make(chan error, 1)
	go func() { // ends with the Release of the lock
		_, err := waiter.Acquire(t.Context(), "given", nil)
		waited <- err
	}()

	var refused sync.Map
	var filling sync.WaitGroup
	for writer := range 4 {
		filling.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("fill/%d/%d", writer, i)
				_, err := store.Commit(t.Context(), dcs.Txn{Then: []dcs.Write{dcs.Put(key, make([]byte, 200<<10))}})
				if err != nil {
					refused.Store(key, err)
					return
				}
			}
		})
	}
	filling.Wait()
	refused.Range(func(key, err any) bool {
		requireFull(t, err.(error))
		_, err = store.Get(t.Context(), key.(string))
		require.ErrorIs(t, err.(error), dcs.ErrNotFound, "a refused write is in the store")
		return true
	})
	_, err = other.Acquire(t.Context(), "free", nil)
	requireFull(t, err)
	select {
	case err := <-waited:
		require.Fail(t, "the lock is not free yet", "%v", err)
	default:
	}
	require.NoError(t, given.Release(t.Context()))
	requireFull(t, <-waited)
	_, err = store.Get(t.Context(), "given")
	require.ErrorIs(t, err, dcs.ErrNotFound)
	require.NoError(t, kept.Confirm(t.Context()))

	s.byHand(t, func(ctx context.Context, cc *grpc.ClientConn) error {
		prefix := []byte("/" + s.Root + "/fill/")
		deleted, err := pb.NewKVClient(cc).DeleteRange(ctx, &pb.DeleteRangeRequest{Key: prefix, RangeEnd: below(string(prefix))})
		if err != nil {
			return err
		}
		if _, err := pb.NewKVClient(cc).Compact(ctx, &pb.CompactionRequest{Revision: deleted.Header.Revision, Physical: true}); err != nil {
			return err
		}
		_, err = pb.NewMaintenanceClient(cc).Defragment(ctx, &pb.DefragmentRequest{})
		return err
	})
	s.byHand(t, func(ctx context.Context, cc *grpc.ClientConn) error {
		member := pb.NewMaintenanceClient(cc)
		status, err := member.Status(ctx, &pb.StatusRequest{})
		if err != nil {
			return err
		}
		_, err = member.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: status.Header.MemberId, Alarm: pb.AlarmType_NOSPACE})
		return err
	})
	again, err := other.Acquire(within(t, 2*time.Second), "given", nil)
	require.NoError(t, err)
	require.True(t, again.Valid())
	require.True(t, kept.Valid())
}
