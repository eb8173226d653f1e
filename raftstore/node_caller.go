package raftstore

import (
	"cmp"
	"context"
	"fmt"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// nodeCaller implements nodes for a frontend on a node.
type nodeCaller struct{ n *node }

func (c nodeCaller) ask(ctx context.Context, r *request) outcome {
	var sent dcs.Instant
	o := c.n.ask(ctx, r, func() { sent = dcs.Now() }) // copies do not overlap
	o.sent = sent
	return o
}

// treeSince reads this node's own copy, once it is at least as new.
func (c nodeCaller) treeSince(ctx context.Context, r dcs.Revision, prefix string) (dcs.Snapshot, error) {
	if err := c.n.await(ctx, r); err != nil {
		return dcs.Snapshot{}, err
	}
	return c.n.state.Tree().Snapshot(prefix), nil
}

func (c nodeCaller) keysSince(ctx context.Context, r dcs.Revision, keys []string) ([]dcs.Entry, error) {
	if err := c.n.await(ctx, r); err != nil {
		return nil, err
	}
	return c.n.entriesOf(keys), nil
}

// explain adds to err that the others refuse this node, if that is why it knows no
// leader. An operator must act then.
func (c nodeCaller) explain(err error) error {
	if c.n.leaderAddr() != "" {
		return err
	}
	if refusal := c.n.net.Exclusion(len(c.n.addrs())); refusal != nil {
		return fmt.Errorf("%w: %w", cmp.Or(err, errNoLeader), refusal)
	}
	return err
}

func nothing() {}
