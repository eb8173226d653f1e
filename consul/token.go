package consul

import (
	"context"
	"sync"

	"github.com/holdfast-dcs/holdfast/internal/credentials"
)

// token is the ACL token in use, from a secret that may change.
type token struct {
	secret *credentials.Secret

	mu    sync.Mutex
	value string
}

func (t *token) current() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.value
}

// reload reads the secret again after Consul refused old. It returns the token and
// whether the token differs from old. It returns when ctx is done, even if the disk
// hangs.
func (t *token) reload(ctx context.Context, old string) (string, bool) {
	if now := t.current(); now != old || !t.secret.MayChange() {
		return now, now != old
	}
	read := make(chan string, 1)
	go func() { read <- t.secret.Current() }() // ends when the disk answers
	select {
	case value := <-read:
		t.mu.Lock()
		defer t.mu.Unlock()
		t.value = value
		return value, value != old
	case <-ctx.Done():
		return old, false
	}
}
