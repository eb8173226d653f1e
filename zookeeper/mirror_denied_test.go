package zookeeper

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A read of the copy that is denied, and is repeated with newer credentials, leaves nothing
// out: neither a node of the first state nor a later change.
func TestDeniedReadIsRepeated(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]bool{"the first read": true, "a change": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakeServer(t)
			f.put("/r", parentValue)
			f.put("/r/k", []byte("v"))
			file := filepath.Join(t.TempDir(), "password")
			require.NoError(t, os.WriteFile(file, []byte("old\n"), 0o600))
			b := identityClient(t, func(c *Config) { c.User, c.PasswordFile = "me", file }, f.addr)
			change := func() (at int64) {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.deny = func() bool { // once, and the password changes before the answer
					f.deny = nil
					assert.NoError(t, os.WriteFile(file, []byte("new\n"), 0o600))
					return true
				}
				if !first {
					f.putLocked("/r/k", []byte("v2"))
				}
				return f.zxid
			}
			if first {
				change()
			}
			s, err := b.Wait(budget(t), "", 0)
			require.NoError(t, err)
			require.Len(t, s.Entries, 1)
			if first {
				return
			}
			at := change()
			require.Eventually(t, func() bool { return int64(b.copy.Tree.Revision()) >= at }, 10*time.Second, time.Millisecond)
			got := b.copy.Tree.Snapshot("")
			require.Len(t, got.Entries, 1)
			require.Equal(t, "v2", string(got.Entries[0].Value))
		})
	}
}
