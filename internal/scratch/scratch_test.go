package scratch

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestScratchIsInMemoryWhereThereIsRoom(t *testing.T) {
	const gigabyte = 1 << 30
	t.Setenv("TMPDIR", t.TempDir())
	for name, c := range map[string]struct {
		free   uint64
		usable bool
		parent string
	}{
		"room":     {gigabyte, true, memory},
		"too full": {gigabyte - 1, true, os.TempDir()},
		"no exec":  {gigabyte, false, os.TempDir()},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := os.Stat(memory); err != nil && c.parent == memory {
				t.Skipf("no %s: %v", memory, err)
			}
			dir, err := makeIn("test-", gigabyte, func(dir string) (uint64, bool) { return c.free, c.usable })
			require.NoError(t, err)
			defer os.RemoveAll(dir)
			require.Equal(t, c.parent, filepath.Dir(dir))
		})
	}
	_, usable := roomIn("/no/such/directory")
	require.False(t, usable)
}
