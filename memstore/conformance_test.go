package memstore_test

import (
	"testing"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/memstore"
)

func TestConformance(t *testing.T) {
	conformance.Run(t, harness("memstore", memstore.Options{}))
}
