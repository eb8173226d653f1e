package dcs_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strconv"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// newStore returns a store in memory. A program would use dcs.Open.
func newStore() *dcs.Store {
	store, err := dcs.New(memstore.New(memstore.Options{}), dcs.Options{})
	if err != nil {
		log.Fatal(err)
	}
	return store
}

// Take the lock, act while it is valid, and release it.
func Example() {
	ctx := context.Background()
	store, err := dcs.Open(ctx, "mem://example/app", dcs.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	session, err := store.NewSession(ctx, dcs.SessionOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close(ctx)

	hold, err := session.Acquire(ctx, "leader", []byte("a"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("leading:", hold.Valid())

	// A write that is applied only while this Hold is the lock's holder.
	_, err = store.Commit(ctx, dcs.Txn{
		If:   []dcs.Cond{hold.Guard()},
		Then: []dcs.Write{dcs.Put("status", []byte("promoted"))},
	})
	fmt.Println("written:", err == nil)

	if err := hold.Release(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("leading:", hold.Valid(), "because", dcs.KindOf(hold.Err()))
	// Output:
	// leading: true
	// written: true
	// leading: false because released
}

func ExampleOpen() {
	// Importing package memstore made the scheme "mem" known.
	_, err := dcs.Open(context.Background(), "mem://example/app?ttl=10s&latency=1ms&color=red", dcs.Options{})
	fmt.Println(errors.Is(err, dcs.ErrInvalid))
	fmt.Println(err)
	// Output:
	// true
	// dcs: Open: invalid argument: option "color" is unknown: scheme "mem" knows duplicating, endpoints, expiry_factor, latency, loop_wait, max_ttl, min_ttl, modified_only, no_rebind, no_self_expiry, retry_timeout, ttl
}

// Compare and swap: read, change, and write on the condition that no other client
// has written in between.
func ExampleStore_Commit() {
	ctx := context.Background()
	store := newStore()
	defer store.Close()
	_, err := store.Commit(ctx, dcs.Txn{
		If:   []dcs.Cond{dcs.Absent("counter")},
		Then: []dcs.Write{dcs.Put("counter", []byte("1"))},
	})
	fmt.Println("created:", err == nil)

	entry, err := store.Get(ctx, "counter")
	if err != nil {
		log.Fatal(err)
	}
	swap := dcs.Txn{
		If:   []dcs.Cond{dcs.ModifiedAt("counter", entry.Modified)},
		Then: []dcs.Write{dcs.Put("counter", []byte("2"))},
	}
	_, err = store.Commit(ctx, swap)
	fmt.Println("swapped:", err == nil)

	_, err = store.Commit(ctx, swap) // the revision is out of date
	fmt.Println("again:", dcs.KindOf(err))
	var e *dcs.Error
	if errors.As(err, &e) && e.Current != nil {
		fmt.Printf("it is now %s\n", e.Current.Value)
	}
	// Output:
	// created: true
	// swapped: true
	// again: conflict
	// it is now 2
}

func ExampleStore_Snapshot() {
	ctx := context.Background()
	store := newStore()
	defer store.Close()
	_, err := store.Commit(ctx, dcs.Txn{Then: []dcs.Write{
		dcs.Put("members/b", []byte("10.0.0.2")),
		dcs.Put("members/a", []byte("10.0.0.1")),
		dcs.Put("membership", nil),
	}})
	if err != nil {
		log.Fatal(err)
	}
	members, err := store.Snapshot(ctx, "members")
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range members.Entries {
		fmt.Printf("%s %s\n", e.Key, e.Value)
	}
	// Output:
	// members/a 10.0.0.1
	// members/b 10.0.0.2
}

// Follow a key. The loop gets the present state and then every last state. An outage
// is an error in the loop and does not end it.
func ExampleStore_Watch() {
	ctx := context.Background()
	store := newStore()
	defer store.Close()
	set := func(value string) {
		if _, err := store.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("config", []byte(value))}}); err != nil {
			log.Fatal(err)
		}
	}
	set("one")
	for snap, err := range store.Watch(ctx, "config") {
		if err != nil {
			fmt.Println("unknown for now:", err)
			continue
		}
		entry, _ := snap.Get("config")
		fmt.Printf("%s\n", entry.Value)
		if string(entry.Value) == "two" {
			break
		}
		set("two")
	}
	// Output:
	// one
	// two
}

// Read the holder of the lock from the conflict.
func ExampleSession_TryAcquire() {
	ctx := context.Background()
	store := newStore()
	defer store.Close()
	for _, member := range []string{"a", "b"} {
		session, err := store.NewSession(ctx, dcs.SessionOptions{})
		if err != nil {
			log.Fatal(err)
		}
		defer session.Close(ctx)
		_, err = session.TryAcquire(ctx, "leader", []byte(member))
		var e *dcs.Error
		switch {
		case err == nil:
			fmt.Println(member, "leads")
		case errors.Is(err, dcs.ErrConflict) && errors.As(err, &e) && e.Current != nil:
			fmt.Printf("%s follows %s\n", member, e.Current.Value)
		default:
			log.Fatal(err)
		}
	}
	// Output:
	// a leads
	// b follows a
}

// A member key is removed when its session ends.
func ExampleSession_Publish() {
	ctx := context.Background()
	store := newStore()
	defer store.Close()
	session, err := store.NewSession(ctx, dcs.SessionOptions{})
	if err != nil {
		log.Fatal(err)
	}
	displaced, err := session.Publish(ctx, "members/a", []byte("10.0.0.1"))
	fmt.Println(displaced == "", err)
	members, _ := store.Snapshot(ctx, "members")
	fmt.Println(len(members.Entries))
	if err := session.Close(ctx); err != nil {
		log.Fatal(err)
	}
	members, _ = store.Snapshot(ctx, "members")
	fmt.Println(len(members.Entries))
	// Output:
	// true <nil>
	// 1
	// 0
}

func ExampleHold() {
	ctx := context.Background()
	store := newStore()
	defer store.Close()
	session, err := store.NewSession(ctx, dcs.SessionOptions{})
	if err != nil {
		log.Fatal(err)
	}
	hold, err := session.Acquire(ctx, "leader", []byte("a"))
	if err != nil {
		log.Fatal(err)
	}
	// Before an action that cannot be undone, ask the store, and then check that
	// enough time is left.
	if err := hold.Confirm(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("time enough:", hold.Remaining() > 20*time.Second)

	guard := hold.Guard()
	_ = session.Close(ctx)
	<-hold.Done()
	_, err = store.Commit(ctx, dcs.Txn{If: []dcs.Cond{guard}, Then: []dcs.Write{dcs.Put("status", nil)}})
	fmt.Println("a write of the former holder:", dcs.KindOf(err))
	// Output:
	// time enough: true
	// a write of the former holder: conflict
}

// A lease without a Session, for a program that keeps the deadline itself.
func ExampleStore_Grant() {
	ctx := context.Background()
	store := newStore()
	defer store.Close()
	lease, granted, err := store.Grant(ctx, 10*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	deadline := dcs.Deadline(granted.From, granted.TTL)
	_, err = store.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.PutLeased("members/a", nil, lease.ID())}})
	if err != nil {
		log.Fatal(err)
	}
	renewed, err := lease.Renew(ctx, "members/a")
	if err != nil {
		log.Fatal(err)
	}
	_, there := renewed.Entry("members/a")
	fmt.Println("granted", granted.TTL, "and later", deadline.Before(dcs.Deadline(renewed.From, renewed.TTL)), "with the key", there)
	if err := lease.Revoke(ctx); err != nil {
		log.Fatal(err)
	}
	_, err = store.Get(ctx, "members/a")
	fmt.Println(dcs.KindOf(err))
	// Output:
	// granted 10s and later true with the key true
	// not found
}

func ExampleTiming_Validate() {
	timing := dcs.Timing{TTL: 20 * time.Second, LoopWait: 10 * time.Second, RetryTimeout: 10 * time.Second}
	fmt.Println(timing.Validate(dcs.Caps{}))
	fmt.Println(dcs.Timing{TTL: 3 * time.Second}.WithDefaults())
	// Output:
	// dcs: Validate: invalid argument: TTL 20s is less than LoopWait 10s + 2 x RetryTimeout 10s = 30s: TTL 30s, LoopWait 10s, RetryTimeout 10s works
	// TTL 3s, LoopWait 1s, RetryTimeout 1s
}

func ExampleCheckKey() {
	for _, key := range []string{"members/a 100%", "/leader", "a//b", ".hidden"} {
		fmt.Println(dcs.CheckKey(key))
	}
	// Output:
	// <nil>
	// dcs: CheckKey "/leader": invalid argument: the key begins with a slash: leave it out, keys are relative to the backend's root
	// dcs: CheckKey "a//b": invalid argument: part 2 is empty: use single slashes between parts
	// dcs: CheckKey ".hidden": invalid argument: the first part ".hidden" begins with a dot: such names are reserved for bookkeeping, use another one
}

func ExampleParseURL() {
	u, err := dcs.ParseURL("etcd3://h1:2379,[2001:db8::1]:2379/service?ttl=10s")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(u.Scheme, u.Hosts, u.Path, u.Params["ttl"])
	_, err = dcs.ParseURL("etcd3://root:swordfish@h1:2379/service")
	fmt.Println(err)
	// Output:
	// etcd3 [h1:2379 [2001:db8::1]:2379] /service 10s
	// dcs: ParseURL: invalid argument: the URL contains "@": a user or password does not belong in a URL, take them from a file or the environment; in a path or value write @ as %40
}

// Count the calls that fail.
func ExampleObserver() {
	ctx := context.Background()
	events := make(chan dcs.CallEvent)
	observer := dcs.Observer{Call: func(e dcs.CallEvent) { events <- e }} // a callback may block
	store, err := dcs.New(memstore.New(memstore.Options{}), dcs.Options{Observer: observer})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	_, _ = store.Get(ctx, "leader")
	_, _ = store.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("status", nil)}})
	for range 2 {
		e := <-events
		fmt.Println(e.Backend, e.Op, e.Key, dcs.KindOf(e.Err))
	}
	// Output:
	// memstore Get leader not found
	// memstore Commit status <nil>
}

// A deadline is an Instant, which counts the time that the machine is suspended.
func ExampleInstant() {
	began := dcs.Now()
	deadline := began.Add(time.Hour)
	fmt.Println(began.Before(deadline), deadline.Sub(began), deadline.Elapsed() < 0)
	// Output: true 1h0m0s true
}

// driver opens backends for URLs like example://name/root?size=3. A real driver
// connects to the hosts of the URL.
type driver struct{}

func (driver) Params() []dcs.Param {
	return []dcs.Param{{Name: "size", Usage: "the number of servers, 1 to 9 (default 1)"}}
}

func (driver) Open(_ context.Context, u *dcs.URL, _ dcs.Options) (dcs.Backend, error) {
	var o memstore.Options
	if size, given := u.Params["size"]; given {
		n, err := strconv.Atoi(size)
		if err != nil || n < 1 || n > 9 {
			return nil, &dcs.Error{Kind: dcs.ErrInvalid, Err: fmt.Errorf("option size=%q is not a number from 1 to 9: write it like size=3", size)}
		}
		o.Endpoints = n
	}
	return memstore.New(o), nil
}

// A backend's package registers its scheme in an init function.
func ExampleRegister() {
	dcs.Register("example", driver{})

	ctx := context.Background()
	store, err := dcs.Open(ctx, "example://name/root?size=3&ttl=10s", dcs.Options{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(store.Timing())
	_ = store.Close()
	_, err = dcs.Open(ctx, "example://name/root?size=many", dcs.Options{})
	fmt.Println(err)
	_, err = dcs.Open(ctx, "example://name/root?colour=red", dcs.Options{})
	fmt.Println(err)
	// Output:
	// TTL 10s, LoopWait 3.333333333s, RetryTimeout 3.333333333s
	// dcs: example: Open: invalid argument: option size="many" is not a number from 1 to 9: write it like size=3
	// dcs: Open: invalid argument: option "colour" is unknown: scheme "example" knows loop_wait, retry_timeout, size, ttl
}
