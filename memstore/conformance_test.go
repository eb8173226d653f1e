package memstore_test

import (
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/memstore"
)

func TestConformance(t *testing.T) {
	conformance.Run(t, harness("memstore", memstore.Options{}))
}

// The same contract on a store with as few capabilities as a foreign one: leases that
// live twice as long as granted, conditions on Modified only, no moving of keys, keys of
// expired leases left to other clients, and messages that take time.
func TestConformanceOfAPoorStore(t *testing.T) {
	h := harness("memstore, poor", memstore.Options{
		MinTTL: time.Second, MaxTTL: time.Hour, ExpiryFactor: 2, NoRebind: true, NoSelfExpiry: true, ModifiedOnly: true,
		MaxValue: 1000, MaxTxnOps: 8, MaxTxnBytes: 3000, Latency: time.Millisecond,
	})
	h.NotApplicable["Open/ByURL"] = "no URL can express the limits of this store"
	conformance.Run(t, h)
}
