package consul

import (
	"log/slog"
	"sync"

	"github.com/holdfast-dcs/holdfast/internal/remote"
)

// token is the ACL token, from a file that may change.
type token struct {
	file string // "": the environment's
	log  *slog.Logger

	mu    sync.Mutex
	value string
}

func (t *token) current() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.value
}

// reload reads the file again after Consul refused old, and reports whether
// there is another token now.
func (t *token) reload(old string) (string, bool) {
	if t.file == "" {
		return old, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.value != old {
		return t.value, true
	}
	value, err := remote.ReadSecret(t.file)
	if err != nil {
		t.log.Warn("the ACL token's file can not be read", "error", err)
		return old, false
	}
	t.value = value
	return value, value != old
}
