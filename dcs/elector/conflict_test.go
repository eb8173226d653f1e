package elector

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// A change that conflicts with another one each time ends, also without a deadline, and
// so does one whose context ends. Nothing has changed.
func TestChangesThatConflict(t *testing.T) {
	for name, test := range map[string]struct {
		key    string
		prior  string // value of the key
		change func(ctx context.Context, e *Elector) error
	}{
		"pause": {cluster.ConfigKey, `{}`, func(ctx context.Context, e *Elector) error { return e.Pause(ctx) }},
		"patch": {cluster.ConfigKey, `{}`, func(ctx context.Context, e *Elector) error {
			_, err := e.PatchConfig(ctx, []byte(`{"x":1}`))
			return err
		}},
		"cancel": {cluster.FailoverKey, `{"leader":"a","member":"b","scheduled_at":"2099-01-01T00:00:00Z"}`, func(ctx context.Context, e *Elector) error { return e.CancelSwitchover(ctx) }},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a, b := w.pair()
				w.put(t, test.key, test.prior)
				pass(time.Second)
				commit := memstore.Match{Client: "b", Op: memstore.OpCommit, Key: cluster.Key(scope, test.key)}
				conflicts := w.server.Inject(commit, memstore.Refuse(&dcs.Error{Kind: dcs.ErrConflict, Err: errors.New("changed")}))
				begin := time.Now()
				err := test.change(context.Background(), b.e) //nolint:usetesting // it must have no deadline
				if !errors.Is(err, ErrRefused) || !errors.Is(err, dcs.ErrConflict) {
					t.Errorf("%v", err)
				}
				between(t, "answer", time.Since(begin), 0, 10*time.Second)
				if n := conflicts.Hits(); n < 2 || n > 10 {
					t.Errorf("%d attempts", n)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				if err := test.change(ctx, b.e); !errors.Is(err, dcs.ErrConflict) || !errors.Is(err, ErrRefused) {
					t.Errorf("%v", err)
				}
				if v := w.view(); v.Config.Pause || len(v.Config.Extra) > 0 || (v.Failover == nil) == (name == "cancel") || a.e.Leading() == nil {
					t.Errorf("%+v, %+v", v.Config, v.Failover)
				}
				conflicts.Lift()
				if err := test.change(t.Context(), b.e); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A change whose answer is lost has an outcome that is not known, and is not repeated.
func TestChangeUnclear(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, b := w.pair()
		w.server.Inject(memstore.Match{Client: "b", Op: memstore.OpCommit, Key: cluster.Key(scope, cluster.ConfigKey)}, memstore.DropReply())
		w.server.Inject(memstore.Match{Client: "b", Op: memstore.OpSettle}, memstore.Hang())
		err := b.e.Pause(t.Context())
		if !errors.Is(err, dcs.ErrAmbiguous) || errors.Is(err, ErrRefused) || !w.view().Config.Pause {
			t.Errorf("%v", err)
		}
	})
}
