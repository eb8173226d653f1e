package testcluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// modules are the modules whose versions are pinned below testservers/.
var modules = map[Kind]string{Etcd: "go.etcd.io/etcd/server/v3", Consul: "github.com/hashicorp/consul"}

const zookeeperJar = "/usr/share/java/zookeeper.jar"

// program returns the path of the program of a server.
func program(kind Kind, version string) (string, error) {
	if kind == Raft {
		return os.Executable()
	}
	if kind == ZooKeeper {
		if _, err := os.Stat(zookeeperJar); err != nil {
			return "", fmt.Errorf("%w: %w (install the distribution's package zookeeper)", ErrMissing, err)
		}
		return "java", nil
	}
	folder := string(kind)
	if version != "" {
		folder += strings.ReplaceAll(version, ".", "")
	}
	_, here, _, _ := runtime.Caller(0)
	mod, err := os.ReadFile(filepath.Join(filepath.Dir(here), "..", "..", "testservers", folder, "go.mod")) //nolint:gosec // G304: this repository
	if err != nil {
		return "", fmt.Errorf("testcluster: unknown version: %w", err)
	}
	m := regexp.MustCompile(`(?m)^(?:require )?\s*` + regexp.QuoteMeta(modules[kind]) + ` (v\S+)`).FindSubmatch(mod)
	if m == nil {
		return "", fmt.Errorf("testcluster: testservers/%s/go.mod does not pin %s", folder, modules[kind])
	}
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		cache = filepath.Join(home, ".cache")
	}
	path := filepath.Join(cache, "holdfast", "servers", folder+"-"+string(m[1]), folder)
	if _, err := os.Stat(path); err != nil { //nolint:gosec // G703: the user's own cache
		return "", fmt.Errorf("%w: %w (run make test-servers)", ErrMissing, err)
	}
	return path, nil
}

// External returns the endpoints in an environment variable such as
// HOLDFAST_ETCD_ENDPOINTS=h1:2379,h2:2379, or nil. They are servers that run already and
// are used for the cases without faults.
func External(kind Kind) []string {
	v := os.Getenv("HOLDFAST_" + strings.ToUpper(string(kind)) + "_ENDPOINTS")
	if v == "" {
		return nil
	}
	return strings.Split(v, ",")
}

// Need skips the test if err is ErrMissing, or fails it if HOLDFAST_REQUIRE_SERVERS=1
// requires the servers. It fails the test for any other error.
func Need(tb testing.TB, err error) {
	tb.Helper()
	if err == nil {
		return
	}
	if os.Getenv("HOLDFAST_REQUIRE_SERVERS") == "1" {
		tb.Fatal(err)
	}
	if strings.Contains(err.Error(), ErrMissing.Error()) {
		tb.Skip(err)
	}
	tb.Fatal(err)
}

// New starts a cluster that is closed at the end of the test.
func New(tb testing.TB, o Options) *Cluster {
	tb.Helper()
	c, err := Start(tb.Context(), o)
	Need(tb, err)
	tb.Cleanup(c.Close)
	return c
}

// Shared is a cluster that the tests of a package share. The zero value with Options is
// ready to use. TestMain must call [Shared.Close].
type Shared struct {
	Options Options

	mu  sync.Mutex
	c   *Cluster
	err error
}

// Get returns the cluster, which the first call starts. If a test has failed and left the
// cluster unhealthy, Get closes it and starts another one, so that later tests do not wait
// for it.
func (s *Shared) Get(tb testing.TB) *Cluster {
	tb.Helper()
	c, err := s.get()
	Need(tb, err)
	return c
}

func (s *Shared) get() (*Cluster, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c != nil && !s.c.usable() {
		s.c.Close()
		s.c = nil
	}
	if s.c == nil && s.err == nil {
		s.c, s.err = Start(context.Background(), s.Options)
	}
	return s.c, s.err
}

// Close closes the cluster if it was started.
func (s *Shared) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c != nil {
		s.c.Close()
	}
}
