package elector_test

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// The timetable of the default timing.
func ExampleTimetable() {
	b, err := elector.Timetable(elector.Timing{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, m := range []struct {
		name string
		at   time.Duration
	}{
		{"renewal", b.Renew},
		{"it and one more have failed", b.Retried},
		{"Demote", b.Demote},
		{"Fence", b.Fence},
		{"process ends", b.Guardian},
		{"deadline", b.Deadline},
		{"others", b.Others},
	} {
		fmt.Printf("%5.1f s  %s\n", m.at.Seconds(), m.name)
	}
	// Output:
	//  10.0 s  renewal
	//  20.0 s  it and one more have failed
	//  21.9 s  Demote
	//  28.4 s  Fence
	//  28.9 s  process ends
	//  29.4 s  deadline
	//  30.0 s  others
}

// A job that must run in one process at a time.
func ExampleLead() {
	store, err := dcs.New(memstore.New(memstore.Options{}), dcs.Options{}) // a program uses dcs.Open
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = store.Close() }()
	err = elector.Lead(context.Background(), elector.Config{Store: store, Scope: "job", Name: "a"},
		func(ctx context.Context, l *elector.Leadership) error {
			_, err := l.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("job/result", []byte("done"))}})
			fmt.Println("the only process")
			return err
		})
	fmt.Println(err)
	// Output:
	// the only process
	// <nil>
}
