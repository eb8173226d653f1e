// Package watchcache keeps a copy of a store's tree, which serves every Wait of a
// Store, and drives the watch that keeps the copy up to date.
//
// A backend must supply a read of the whole tree and a [Stream] that follows the
// changes at one endpoint. Errors are classified by [backend.Judge]. This package
// decides everything else for all backends: which endpoint is watched, when it is
// probed, when it is silent or lags, whether a failure is the endpoint's, and how long
// to wait before the next watch (docs/decisions/0032).
package watchcache
