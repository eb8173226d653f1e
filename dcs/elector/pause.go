package elector

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

// Pause suspends decisions in the whole cluster: no member takes the lock, and a
// service that reports to be no primary keeps it (E11). The leader becomes the keeper
// and goes on without the lock too, until [Elector.Resume]; see the package
// documentation. If the lock is deleted it demotes, and no member leads.
//
// Any member may be asked. ErrRefused reports that a switchover was accepted and is
// not over; a pause now would leave the cluster without a leader.
func (e *Elector) Pause(ctx context.Context) error { return e.setPause(ctx, "pause", true) }

// Resume ends a pause.
func (e *Elector) Resume(ctx context.Context) error { return e.setPause(ctx, "resume", false) }

func (e *Elector) setPause(ctx context.Context, op string, pause bool) error {
	_, err := e.changeConfig(ctx, op, func(v *cluster.View) (cluster.Config, error) {
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
// [cluster.ParseConfig]. ErrRefused reports that nothing has changed, for the reasons of
// [Elector.PatchConfig].
func (e *Elector) ReplaceConfig(ctx context.Context, value []byte) (cluster.Config, error) {
	return e.changeConfig(ctx, "replacement of the configuration", func(*cluster.View) (cluster.Config, error) {
		return cluster.ParseConfig(value)
	})
}

// changeConfig writes the configuration that change returns, again after each
// conflict.
func (e *Elector) changeConfig(ctx context.Context, op string, change func(*cluster.View) (cluster.Config, error)) (cluster.Config, error) {
	for {
		v, err := cluster.Read(ctx, e.c.Store, e.c.Scope)
		if err != nil {
			return cluster.Config{}, fmt.Errorf("elector: %s of %q: %w", op, e.c.Scope, err)
		}
		if err := v.Problem(cluster.ConfigKey); err != nil {
			return cluster.Config{}, e.refused(op, fmt.Errorf("key %q is not readable: %w", cluster.ConfigKey, err))
		}
		config, err := change(v)
		if err != nil {
			return cluster.Config{}, e.refused(op, err)
		}
		if f := v.Failover; config.Pause && f != nil && f.Token != 0 { // E11
			return cluster.Config{}, e.refused(op, fmt.Errorf("a switchover to %q is under way", f.Candidate))
		}
		txn, err := v.Txn(config)
		if err != nil {
			return cluster.Config{}, e.refused(op, err)
		}
		if len(txn.Then) == 0 {
			return config, nil
		}
		txn.If = append(txn.If, v.Unchanged(cluster.FailoverKey)...) // E11
		if _, err = e.c.Store.Commit(ctx, txn); err == nil {
			return config, nil
		}
		if !errors.Is(err, dcs.ErrConflict) {
			return cluster.Config{}, fmt.Errorf("elector: %s of %q: %w", op, e.c.Scope, err)
		}
	}
}
