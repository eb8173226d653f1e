package memstore

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// watched returns the number of prefixes for which the server's tree keeps a watch.
func watched(b *Backend) int {
	tree := b.s.root(b.o.Root).tree
	return reflect.ValueOf(tree).Elem().FieldByName("waiters").Len()
}

// A Wait leaves nothing at the server, no matter how it has ended, and also if a copy of
// its request arrives after that.
func TestWaitLeavesNothing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := NewServer(Options{})
		b := s.Open(ClientOptions{})
		defer b.Close()
		rev := mustCommit(t, b, put("config", "1"))
		held := s.Inject(Match{Op: OpWait, Key: "late"}, Hold())
		wait := func(prefix string) error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := b.Wait(ctx, prefix, rev)
			return err
		}
		for i := range 10 {
			if err := wait(fmt.Sprint("quiet/", i)); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		}
		if err := wait("late"); !errors.Is(err, context.DeadlineExceeded) || held.Held() == 0 {
			t.Fatalf("%v, %d requests are held", err, held.Held())
		}
		held.Release()
		if n := watched(b); n != 0 {
			t.Fatalf("%d prefixes are kept without a Wait", n)
		}
	})
}

// A Wait still sees the change when another Wait on the same prefix ends.
func TestWaitOutlivesAnother(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := NewServer(Options{})
		b := s.Open(ClientOptions{})
		defer b.Close()
		rev := mustCommit(t, b, put("config", "1"))
		woken := make(chan error, 1)
		go func() {
			snap, err := b.Wait(budget(t), "config", rev)
			if err == nil && snap.Revision <= rev {
				err = fmt.Errorf("woken at revision %d", snap.Revision)
			}
			woken <- err
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.Wait(ctx, "config", rev); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		start := dcs.Now()
		mustCommit(t, b, put("config", "2"))
		if err := <-woken; err != nil || start.Elapsed() > time.Second {
			t.Fatalf("%v after %v", err, start.Elapsed())
		}
		if n := watched(b); n != 0 {
			t.Fatalf("%d prefixes are kept without a Wait", n)
		}
	})
}
