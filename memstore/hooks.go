package memstore

import "github.com/holdfast-dcs/holdfast/dcs"

// hooks are functions that a Server calls under its lock. Tests set them before the first
// call of a client.
type hooks struct {
	// committed is called after each commit.
	committed func(r *root, t dcs.Txn, rev dcs.Revision)
	// expired is called with each lease that expires, before its keys are removed.
	expired func(id dcs.LeaseID)
}

// noHooks returns hooks that have no effect.
func noHooks() hooks {
	return hooks{
		committed: func(*root, dcs.Txn, dcs.Revision) {},
		expired:   func(dcs.LeaseID) {},
	}
}
