// Package watchcache keeps a copy of a store's tree, which serves every Wait of a
// Store, and drives the watch that keeps it up to date.
//
// A backend supplies a read of the whole tree, a [Stream] that follows the changes
// at one endpoint, and the meaning of errors ([remote.Judge]). Everything else is
// decided here, for all backends alike: which endpoint is watched, when it is
// probed, when it is silent or lags, whose fault a failure is, and how long to wait
// before the next watch (docs/decisions/0032).
package watchcache
