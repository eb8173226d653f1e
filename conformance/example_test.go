package conformance_test

import (
	"fmt"
	"testing"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// The harness of a backend is one function that opens a client. This one is
// run as a test too, in the test of this package.
func ExampleRun() {
	// func TestConformance(t *testing.T) { conformance.Run(t, harness) }
	harness := conformance.Harness{
		Name:    "mystore",
		Virtual: true, // only for stores without sockets and disks
		New: func(testing.TB) conformance.Store {
			server := memstore.NewServer(memstore.Options{})
			return conformance.Store{
				Open: func(testing.TB) dcs.Backend { return server.Open(memstore.ClientOptions{}) },
			}
		},
		NotApplicable: map[string]string{"TLS/*": "no connections", "Auth/*": "no users"},
	}
	fmt.Println("go test runs the suite against", harness.Name)
	// Output: go test runs the suite against mystore
}

// Every case is a rule in words.
func ExampleCases() {
	for _, c := range conformance.Cases() {
		if c.Name == "Hold/TokenRises" {
			fmt.Println(c.Rule)
			fmt.Println(c.Learnt)
		}
	}
	// Output:
	// The token rises strictly over 200 re-acquisitions, whoever holds, and is the key's Created.
	// A token that repeats lets an old leader's write pass a resource that compares them.
}
