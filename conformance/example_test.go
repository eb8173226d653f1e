package conformance_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// The harness of a backend is one function that opens a client.
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
		NotApplicable: conformance.Without("not yet", "Cluster", "Inject", "Requests", "Secure", "URL"),
	}
	fmt.Println("go test runs the suite against", harness.Name)
	// Output: go test runs the suite against mystore
}

// Cases lists the cases of the suite.
func ExampleCases() {
	for _, c := range conformance.Cases() {
		if strings.HasPrefix(c.Name, "Keepalive/") {
			fmt.Println(c.Name)
		}
	}
	// Output:
	// Keepalive/HugeTTL
}
