package memstore_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// A leader whose lease an operator ends detects that at its next renewal.
func Example() {
	ctx := context.Background()
	server := memstore.NewServer(memstore.Options{})
	store, err := dcs.New(server.Open(memstore.ClientOptions{Name: "a"}), dcs.Options{
		Timing: dcs.Timing{TTL: 2 * time.Second, LoopWait: 100 * time.Millisecond, RetryTimeout: 500 * time.Millisecond},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	session, err := store.NewSession(ctx, dcs.SessionOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	hold, err := session.Acquire(ctx, "leader", []byte("a"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("leading:", hold.Valid())

	server.EndLease(session.Lease())
	<-hold.Done()
	fmt.Println("leading:", hold.Valid(), "because:", dcs.KindOf(hold.Err()))
	// Output:
	// leading: true
	// leading: false because: lost
}

// The answer to a write is lost, and the session recognises the write as its own.
func ExampleServer_Inject() {
	ctx := context.Background()
	b := memstore.New(memstore.Options{})
	store, err := dcs.New(b, dcs.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	lost := b.Server().Inject(memstore.Match{Op: memstore.OpCommit, Key: "leader"},
		memstore.DropReply(), memstore.Reset(), memstore.Once())

	_, err = store.Commit(ctx, dcs.Txn{
		If:   []dcs.Cond{dcs.Absent("leader")},
		Then: []dcs.Write{dcs.Put("leader", []byte("a"))},
	})
	fmt.Println("answers lost:", lost.Hits())
	fmt.Println("error:", err)
	// Output:
	// answers lost: 1
	// error: <nil>
}

// A write whose call has given up is applied later, as on a store whose server was
// paused. Settle determines its outcome.
func ExampleHold() {
	b := memstore.New(memstore.Options{})
	store, err := dcs.New(b, dcs.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	frozen := b.Server().Inject(memstore.Match{Op: memstore.OpCommit | memstore.OpSettle}, memstore.Hold())

	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err = store.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("config", []byte("new"))}})
	fmt.Println(dcs.KindOf(err) == dcs.ErrAmbiguous)

	frozen.Lift()
	frozen.Release()
	var ambiguous *dcs.Error
	errors.As(err, &ambiguous)
	_, err = store.Settle(context.Background(), ambiguous)
	fmt.Println("settled:", err)
	// Output:
	// true
	// settled: <nil>
}
