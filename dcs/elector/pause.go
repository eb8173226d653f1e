package elector

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

// Pause suspends decisions in the whole cluster: no member takes the lock, and a
// service that reports to be no primary keeps it (E11). A leader goes on while it
// renews its lock. If it loses the lock it demotes, and no member leads until
// [Elector.Resume].
//
// Any member may be asked. ErrRefused reports that a switchover was accepted and is
// not over; a pause now would leave the cluster without a leader.
func (e *Elector) Pause(ctx context.Context) error { return e.setPause(ctx, true) }

// Resume ends a pause.
func (e *Elector) Resume(ctx context.Context) error { return e.setPause(ctx, false) }

func (e *Elector) setPause(ctx context.Context, pause bool) error {
	op := "resume"
	if pause {
		op = "pause"
	}
	for {
		v, err := cluster.Read(ctx, e.c.Store, e.c.Scope)
		if err != nil {
			return fmt.Errorf("elector: %s of %q: %w", op, e.c.Scope, err)
		}
		if err := v.Problem(cluster.ConfigKey); err != nil {
			return e.refused(op, fmt.Errorf("key %q is not readable: %w", cluster.ConfigKey, err))
		}
		if f := v.Failover; pause && f != nil && f.Token != 0 { // E11
			return e.refused(op, fmt.Errorf("a switchover to %q is under way", f.Candidate))
		}
		config := v.Config
		config.Pause = pause
		txn, err := v.Txn(config)
		if err != nil || len(txn.Then) == 0 {
			return err
		}
		txn.If = append(txn.If, v.Unchanged(cluster.FailoverKey)...) // E11
		if _, err = e.c.Store.Commit(ctx, txn); err == nil {
			return nil
		}
		if !errors.Is(err, dcs.ErrConflict) {
			return fmt.Errorf("elector: %s of %q: %w", op, e.c.Scope, err)
		}
	}
}
