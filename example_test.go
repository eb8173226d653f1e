package holdfast_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/holdfast-dcs/holdfast/dcs"
	_ "github.com/holdfast-dcs/holdfast/raftstore" // the raft:// scheme
)

// A program that takes leadership, keeps it, writes under it and gives it up,
// on the embedded store and with nothing else installed.
func Example() {
	dir, err := os.MkdirTemp("", "holdfast-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	store, err := dcs.Open(ctx, "raft://"+dir+"?id=a&root=demo&listen=127.0.0.1:0", dcs.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	session, err := store.NewSession(ctx, dcs.SessionOptions{}) // renews its lease by itself
	if err != nil {
		log.Fatal(err)
	}
	hold, err := session.Acquire(ctx, "leader", []byte("a")) // waits until the lock is free
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("leading:", hold.Valid())
	_, err = store.Commit(ctx, dcs.Txn{ // the store itself refuses this once another leads
		If:   []dcs.Cond{hold.Guard()},
		Then: []dcs.Write{dcs.Put("config", []byte("written by the leader"))},
	})
	fmt.Println("guarded write:", err)
	select {
	case <-hold.Done(): // at the deadline, whatever the store and the network do
		fmt.Println("stop at once:", hold.Err())
	default: // a real program works here, until Done
	}
	fmt.Println("released:", hold.Release(ctx), hold.Valid())
	// Output:
	// leading: true
	// guarded write: <nil>
	// released: <nil> false
}
