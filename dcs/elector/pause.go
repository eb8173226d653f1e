package elector

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

// Pause suspends decisions in the whole cluster: no member takes the lock, and a
// service that reports to be no primary keeps it (E11). The leader becomes the keeper
// and goes on without the lock too, until [Elector.Resume]; see the package
// documentation. If the lock is deleted it demotes, and no member leads.
//
// Any member may be asked. ErrRefused reports that nothing has changed: a switchover was
// accepted and is not over, so that a pause now would leave the cluster without a leader,
// or another change came first in each of a few attempts, which dcs.ErrConflict reports
// too. After dcs.ErrAmbiguous the outcome is not known.
func (e *Elector) Pause(ctx context.Context) error { return e.setPause(ctx, "pause", true) }

// Resume ends a pause.
func (e *Elector) Resume(ctx context.Context) error { return e.setPause(ctx, "resume", false) }

func (e *Elector) setPause(ctx context.Context, op string, pause bool) error {
	_, err := e.changeConfig(ctx, op, func(v *cluster.View) (cluster.Config, error) {
		if err := v.Problem(cluster.ConfigKey); err != nil {
			return cluster.Config{}, fmt.Errorf("key %q is not readable: replace the configuration: %w", cluster.ConfigKey, err)
		}
		c := v.Config
		c.Pause = pause
		return c, nil
	})
	return err
}

// PatchConfig applies a JSON merge patch to the cluster's configuration and returns
// the new one, see [cluster.View.PatchConfig]. ErrRefused reports that nothing has
// changed: the patch or its result is not valid, or it begins a pause while a
// switchover is under way, see [Elector.Pause].
func (e *Elector) PatchConfig(ctx context.Context, patch []byte) (cluster.Config, error) {
	return e.changeConfig(ctx, "change of the configuration", func(v *cluster.View) (cluster.Config, error) {
		return v.PatchConfig(patch)
	})
}

// ReplaceConfig stores value, a JSON object, as the cluster's configuration and returns
// the configuration. Fields that value does not have are removed, see
// [cluster.ParseConfig]. A stored configuration that is not readable is replaced, too.
// ErrRefused reports that nothing has changed, for the reasons of
// [Elector.PatchConfig].
func (e *Elector) ReplaceConfig(ctx context.Context, value []byte) (cluster.Config, error) {
	return e.changeConfig(ctx, "replacement of the configuration", func(*cluster.View) (cluster.Config, error) {
		return cluster.ParseConfig(value)
	})
}

// changeConfig writes the configuration that change returns.
func (e *Elector) changeConfig(ctx context.Context, op string, change func(*cluster.View) (cluster.Config, error)) (config cluster.Config, err error) {
	err = e.changeTree(ctx, op, func(v *cluster.View) (txn dcs.Txn, err error) {
		if config, err = change(v); err != nil {
			return txn, err
		}
		if f := v.Failover; config.Pause && f != nil && f.Token != 0 { // E11
			return txn, fmt.Errorf("a switchover to %q is under way", f.Candidate)
		}
		if txn, err = v.Txn(config); err == nil && len(txn.Then) > 0 {
			txn.If = append(txn.If, v.Unchanged(cluster.FailoverKey)...) // E11
		}
		return txn, err
	})
	if err != nil {
		return cluster.Config{}, err
	}
	return config, nil
}

// maxConflicts is how often a change of the tree that conflicts with another one is
// tried.
const maxConflicts = 8

// changeTree reads the cluster and commits the transaction that change returns for it,
// again after a conflict, in bounded number. An error of change is a refusal, and a
// transaction without writes leaves the cluster as it is.
func (e *Elector) changeTree(ctx context.Context, op string, change func(*cluster.View) (dcs.Txn, error)) error {
	for n := 1; ; n++ {
		v, err := cluster.Read(ctx, e.c.Store, e.c.Scope)
		if err != nil {
			return fmt.Errorf("elector: %s of %q: %w", op, e.c.Scope, err)
		}
		txn, err := change(v)
		if err != nil {
			return e.refused(op, err)
		}
		if len(txn.Then) == 0 {
			return nil
		}
		switch _, err = e.c.Store.Commit(ctx, txn); {
		case err == nil:
			return nil
		case !errors.Is(err, dcs.ErrConflict):
			return fmt.Errorf("elector: %s of %q: %w", op, e.c.Scope, err)
		case n == maxConflicts:
			return e.refused(op, fmt.Errorf("another change came first in each of %d attempts: %w", n, err))
		}
		pause := time.NewTimer(retryPause(n-1, time.Second))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return e.refused(op, fmt.Errorf("another change came first: %w: %w", err, ctx.Err()))
		}
	}
}
