package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestScratchIsInMemoryWhereThereIsRoom(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for name, c := range map[string]struct {
		free   uint64
		usable bool
		parent string
	}{
		"room":     {memoryNeeded, true, memory},
		"too full": {memoryNeeded - 1, true, os.TempDir()},
		"no exec":  {memoryNeeded, false, os.TempDir()},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := os.Stat(memory); err != nil && c.parent == memory {
				t.Skipf("no %s: %v", memory, err)
			}
			dir, err := scratch(func(dir string) (uint64, bool) { return c.free, c.usable })
			require.NoError(t, err)
			defer os.RemoveAll(dir)
			require.Equal(t, c.parent, filepath.Dir(dir))
		})
	}
	_, usable := roomIn("/no/such/directory")
	require.False(t, usable)
}
