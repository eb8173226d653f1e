package raftstore_test

import (
	"context"
	"fmt"
	"os"

	"github.com/holdfast-dcs/holdfast/dcs"
	_ "github.com/holdfast-dcs/holdfast/raftstore" // the raft:// scheme
)

// A program that takes leadership, keeps it, works under it and gives it up.
func Example() {
	ctx := context.Background()
	dir := must(os.MkdirTemp("", "holdfast-"))
	defer os.RemoveAll(dir)
	url := "raft://" + dir + "?id=a&root=demo&listen=127.0.0.1:0" // one node, in this process

	store := must(dcs.Open(ctx, url, dcs.Options{})) // raft://, etcd3://, consul:// or zookeeper://
	defer store.Close()
	session := must(store.NewSession(ctx, dcs.SessionOptions{})) // renews its lease by itself
	hold := must(session.Acquire(ctx, "leader", []byte("a")))    // waits until the lock is free
	for n := 0; n < 3 && hold.Valid(); n++ {                     // Done() is closed at the end
		_, err := store.Commit(ctx, dcs.Txn{
			If:   []dcs.Cond{hold.Guard()}, // the store refuses the write once another leads
			Then: []dcs.Write{dcs.Put("config", fmt.Append(nil, n))},
		})
		fmt.Println("wrote", n, "as the leader:", err == nil)
	}
	fmt.Println("released:", hold.Release(ctx) == nil, "still valid:", hold.Valid())

	// Output:
	// wrote 0 as the leader: true
	// wrote 1 as the leader: true
	// wrote 2 as the leader: true
	// released: true still valid: false
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
