package holdfast_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	_ "github.com/holdfast-dcs/holdfast/consul" // the consul:// scheme
	"github.com/holdfast-dcs/holdfast/dcs"
	_ "github.com/holdfast-dcs/holdfast/etcd3" // the etcd3:// scheme
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	_ "github.com/holdfast-dcs/holdfast/memstore"  // the mem:// scheme
	_ "github.com/holdfast-dcs/holdfast/zookeeper" // the zookeeper:// scheme
)

// The README's program is the Example that is compiled and run, to the letter.
func TestReadmeProgram(t *testing.T) {
	if !strings.Contains(read(t, "README.md"), "```go\n"+read(t, "example_test.go")+"```") {
		t.Error("README.md does not show example_test.go as it is")
	}
}

// The README's table of backends says what their Caps and a Renewal say.
func TestReadmeTableOfBackends(t *testing.T) {
	readme := read(t, "README.md")
	for name, url := range map[string]string{
		"`raftstore`":        "raft://" + t.TempDir() + "?id=a&root=readme&listen=127.0.0.1:0",
		"`memstore` (tests)": "mem://readme/table",
		"`etcd3`":            "etcd3://" + endpoints(t, testcluster.Etcd) + "/readme",
		"`consul`":           "consul://" + endpoints(t, testcluster.Consul) + "/readme",
		"`zookeeper`":        "zookeeper://" + endpoints(t, testcluster.ZooKeeper) + "/readme",
	} {
		store, err := dcs.Open(t.Context(), url, dcs.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = store.Close() })
		lease, _, err := store.Grant(t.Context(), dcs.DefaultTiming.TTL)
		if err != nil {
			t.Fatal(err)
		}
		renewal, err := lease.Renew(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if row := tableRow(name, store.Caps(), renewal); !strings.Contains(readme, row) {
			t.Errorf("README.md does not have the row\n%s", row)
		}
	}
}

func endpoints(t *testing.T, kind testcluster.Kind) string {
	if own := testcluster.External(kind); own != nil {
		return strings.Join(own, ",")
	}
	o := testcluster.Options{Kind: kind, Nodes: 1, Loopback: true}
	if kind == testcluster.ZooKeeper {
		o.Defaults, o.Flags = true, []string{"tickTime=2000"} // the table has a server's own limits
	}
	return strings.Join(testcluster.New(t, o).Endpoints(), ",")
}

func tableRow(name string, c dcs.Caps, r dcs.Renewal) string {
	return fmt.Sprintf("| %s | %v to %v | %v | %s | %d operations, %s | %s | %s |", name,
		short(c.MinTTL), short(c.MaxTTL), r.Expiry, bytesOf(c.MaxValue), c.MaxTxnOps, bytesOf(c.MaxTxnBytes), yesNo(c.Rebind), yesNo(c.SelfExpiry))
}

// short drops zero minutes and seconds: "24h", not "24h0m0s".
func short(d time.Duration) string {
	if d%time.Minute != 0 {
		return d.String()
	}
	return strings.TrimSuffix(strings.TrimSuffix(d.String(), "0s"), "0m")
}

func bytesOf(n int) string { return fmt.Sprintf("%.3g MiB", float64(n)/(1<<20)) }

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
