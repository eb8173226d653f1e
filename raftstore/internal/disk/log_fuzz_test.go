package disk_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
)

// FuzzScanPatched overwrites parts of a log. An accepted log was written
// there.
func FuzzScanPatched(f *testing.F) {
	f.Add(uint16(0), []byte{1}, uint16(100), []byte{0, 0}, uint16(0))
	f.Add(uint16(300), []byte("some text"), uint16(1400), []byte{255}, uint16(20))
	f.Fuzz(func(t *testing.T, at1 uint16, patch1 []byte, at2 uint16, patch2 []byte, cut uint16) {
		c := newDamageCase(t)
		written := [2][]byte{c.files.Data(c.paths[0]), c.files.Data(c.paths[1])}
		for _, p := range []struct {
			at    uint16
			patch []byte
		}{{at1, patch1}, {at2, patch2}} {
			file := int(p.at) / smallSize % 2
			data := c.files.Data(c.paths[file])
			copy(data[int(p.at)%smallSize:], p.patch)
			c.files.Put(c.paths[file], data)
		}
		if cut > 0 {
			c.files.Cut(c.paths[1], int64(cut)%smallSize)
		}
		texts, err := c.scan(c.full())
		if err == nil {
			require.Equal(t, c.texts, texts)
			for file, end := range c.valid {
				require.Equal(t, written[file][:end], c.files.Data(c.paths[file])[:end])
			}
		} else {
			require.True(t, isLoss(err), "%v", err)
		}
		texts, err = c.scan(disk.LogEnd{})
		if err == nil {
			for _, text := range texts {
				require.True(t, slices.Contains(c.texts, text))
			}
		}
	})
}

// FuzzScanFile takes any bytes for a segment.
func FuzzScanFile(f *testing.F) {
	c := newDamageCase(&testing.T{})
	f.Add(c.files.Data(c.paths[0]), c.files.Data(c.paths[1]), false)
	f.Add([]byte("HFRLOG"), []byte{}, true)
	f.Fuzz(func(t *testing.T, first, second []byte, mark bool) {
		files := disktest.New()
		require.NoError(t, files.MakeDir(logDir))
		files.Put(c.paths[0], first)
		files.Put(c.paths[1], second)
		o := logOptions(files)
		if mark {
			o.Mark = c.full()
		}
		l, _, err := disk.OpenLog(o)
		if err != nil {
			require.True(t, isLoss(err), "%v", err)
			return
		}
		require.NoError(t, l.Append(logEntries(l.End().Index+1, l.End().Index+1, 9, 0)))
		require.NoError(t, l.Close())
	})
}
