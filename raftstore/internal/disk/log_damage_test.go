package disk_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
)

// damageCase is a log of five batches in two segments.
type damageCase struct {
	files *disktest.FS
	paths [2]string
	ends  []disk.LogEnd // after each batch
	valid [2]int64      // where the valid part of each segment ends
	texts []string      // of the entries of the log
}

func newDamageCase(t *testing.T) *damageCase {
	c := &damageCase{files: disktest.New()}
	l := openLog(t, c.files, disk.LogEnd{})
	appendBatch := func(list ...*raft.Log) {
		require.NoError(t, l.Append(list))
		c.ends = append(c.ends, l.End())
	}
	appendBatch(entry(1, 1, 100), entry(2, 1, 61), entry(3, 1, 0))
	require.NoError(t, l.CutBack(3))
	c.ends = append(c.ends, l.End())
	appendBatch(entry(3, 2, 150), entry(4, 2, 200))
	appendBatch(entry(5, 2, 300), entry(6, 2, 20))
	appendBatch(entry(7, 3, 90), entry(8, 3, 150))
	require.NoError(t, l.Close())
	require.Len(t, segments(c.files), 2)
	copy(c.paths[:], segments(c.files))
	require.Equal(t, c.ends[2].Segment+1, c.ends[3].Segment)
	c.valid = [2]int64{c.ends[2].Offset, c.ends[4].Offset}
	texts, err := c.scan(disk.LogEnd{})
	require.NoError(t, err)
	require.Len(t, texts, 9, "with the one that was cut back")
	c.texts = texts
	return c
}

func (c *damageCase) full() disk.LogEnd { return c.ends[len(c.ends)-1] }

// olderMarks returns marks that do not cover the last batch.
func (c *damageCase) olderMarks() []disk.LogEnd {
	return []disk.LogEnd{{}, c.ends[1], c.ends[2], c.ends[3]}
}

// scan returns the entries in the order of the log, those that are cut back
// later too.
func (c *damageCase) scan(mark disk.LogEnd) ([]string, error) {
	var texts []string
	_, err := disk.ScanLog(c.files, logDir, logLife, mark, func(e *raft.Log) error {
		texts = append(texts, text(e))
		return nil
	})
	return texts, err
}

func (c *damageCase) restore(t *testing.T) {
	texts, err := c.scan(c.full())
	require.NoError(t, err)
	require.Equal(t, c.texts, texts)
}

// check scans a log that was damaged in file (0 or 1) from offset to end.
func (c *damageCase) check(t *testing.T, mark disk.LogEnd, file int, from int64, what string, args ...any) {
	t.Helper()
	texts, err := c.scan(mark)
	if isLoss(err) {
		return
	}
	name := fmt.Sprintf(what, args...)
	require.NoError(t, err, name)
	if from >= c.valid[file] {
		require.Equal(t, c.texts, texts, "%s: behind the end", name)
		return
	}
	// Only the last batch can be lost, and only while no mark covers it.
	last := c.ends[len(c.ends)-2]
	require.Less(t, mark.Compare(c.full().Position), 0, "%s was accepted", name)
	require.Equal(t, 1, file, "%s was accepted", name)
	require.True(t, from >= last.Offset || from < 96 && mark.Segment < c.full().Segment, "%s was accepted", name)
	require.Subset(t, c.texts, texts, name)
	require.GreaterOrEqual(t, len(texts), len(c.texts)-2, name)
}

// isLoss reports whether err says that something is damaged or missing.
func isLoss(err error) bool {
	var damage *disk.DamageError
	var short *disk.ShortError
	return errors.As(err, &damage) || errors.As(err, &short)
}

// TestEachFlipIsFound inverts each bit of the log.
func TestEachFlipIsFound(t *testing.T) {
	c := newDamageCase(t)
	for file, path := range c.paths {
		size := int64(len(c.files.Data(path)))
		for bit := range 8 * size {
			c.files.Flip(path, bit)
			c.check(t, c.full(), file, bit/8, "bit %d of segment %d", bit, file)
			if bit%8 == bit/8%8 { // one bit of each byte where the mark is older
				for _, mark := range c.olderMarks() {
					c.check(t, mark, file, bit/8, "bit %d of segment %d with the mark at %v", bit, file, mark)
				}
			}
			c.files.Flip(path, bit)
		}
	}
	c.restore(t)
}

// TestEachZeroedPartIsFound clears each sector, and smaller parts of the log.
func TestEachZeroedPartIsFound(t *testing.T) {
	c := newDamageCase(t)
	for file, path := range c.paths {
		data := c.files.Data(path)
		for _, length := range []int64{8, 16, 64, disktest.Sector, smallSize} {
			for from := int64(0); from < int64(len(data)); from += min(length, 64) {
				if zero(data[from:min(from+length, int64(len(data)))]) {
					continue
				}
				c.files.Zero(path, from, length)
				c.check(t, c.full(), file, from, "%d zeros at %d of segment %d", length, from, file)
				c.files.Put(path, data)
			}
		}
	}
	c.restore(t)
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// TestEachCutIsFound cuts each file at each length.
func TestEachCutIsFound(t *testing.T) {
	c := newDamageCase(t)
	for file, path := range c.paths {
		data := c.files.Data(path)
		for size := range int64(len(data)) {
			c.files.Cut(path, size)
			c.check(t, c.full(), file, size, "segment %d cut at %d", file, size)
			for _, mark := range c.olderMarks() {
				texts, err := c.scan(mark)
				if isLoss(err) {
					continue
				}
				// Entries that the mark does not cover may go, from the end on.
				require.NoError(t, err)
				require.True(t, file == 1 && mark.Compare(disk.Position{Segment: 2, Offset: size}) <= 0 || size >= c.valid[file],
					"segment %d cut at %d, the mark at %v", file, size, mark)
				require.Equal(t, c.texts[:len(texts)], texts)
			}
			c.files.Put(path, data)
		}
	}
	c.restore(t)
}

func TestMissingAndSwappedFilesAreFound(t *testing.T) {
	for name, change := range map[string]func(f *disktest.FS, a, b string){
		"no first":       func(f *disktest.FS, a, _ string) { f.Delete(a) },
		"no last":        func(f *disktest.FS, _, b string) { f.Delete(b) },
		"none":           func(f *disktest.FS, _, _ string) { f.Delete(logDir) },
		"empty":          func(f *disktest.FS, a, b string) { f.Delete(a); f.Delete(b) },
		"swapped":        func(f *disktest.FS, a, b string) { x, y := f.Data(a), f.Data(b); f.Put(a, y); f.Put(b, x) },
		"first twice":    func(f *disktest.FS, a, b string) { f.Put(b, f.Data(a)) },
		"last twice":     func(f *disktest.FS, a, b string) { f.Put(a, f.Data(b)) },
		"renamed":        func(f *disktest.FS, _, b string) { _ = f.Rename(b, logDir+"/0000000000000003.seg") },
		"one too many":   func(f *disktest.FS, _, b string) { f.Put(logDir+"/0000000000000003.seg", f.Data(b)) },
		"header missing": func(f *disktest.FS, _, b string) { f.Zero(b, 0, 96) },
	} {
		c := newDamageCase(t)
		change(c.files, c.paths[0], c.paths[1])
		_, err := c.scan(c.full())
		require.True(t, isLoss(err), "%s: %v", name, err)
		_, _, err = disk.OpenLog(func() disk.LogOptions { o := logOptions(c.files); o.Mark = c.full(); return o }())
		require.True(t, isLoss(err), "%s: %v", name, err)
		if name == "no last" || name == "none" || name == "empty" {
			var short *disk.ShortError
			require.ErrorAs(t, err, &short, name)
			require.Equal(t, c.full(), short.Had)
		}
	}
}

// TestOtherLifesAreRefused puts files of another directory into this one.
func TestOtherLifesAreRefused(t *testing.T) {
	c := newDamageCase(t)
	var damage *disk.DamageError
	_, err := disk.ScanLog(c.files, logDir, [8]byte{9}, disk.LogEnd{}, nil)
	require.ErrorAs(t, err, &damage)

	other := disktest.New()
	o := logOptions(other)
	o.Life = [8]byte{9}
	l, _, err := disk.OpenLog(o)
	require.NoError(t, err)
	require.NoError(t, l.Append([]*raft.Log{entry(1, 1, 100), entry(2, 1, 61), entry(3, 1, 0)}))
	require.NoError(t, l.Close())
	// A record of the other life in the right place.
	data := c.files.Data(c.paths[0])
	copy(data[96:], other.Data(c.paths[0])[96:c.ends[0].Offset])
	c.files.Put(c.paths[0], data)
	_, err = c.scan(c.full())
	require.ErrorAs(t, err, &damage)
	require.Equal(t, []any{c.paths[0], int64(96)}, []any{damage.File, damage.Offset})
}

// TestTornTailIsCut checks the notes of the removed parts, and that damage is
// named with its place.
func TestTornTailIsCut(t *testing.T) {
	c := newDamageCase(t)
	at := c.ends[3].Offset
	c.files.Flip(c.paths[1], (at+120)*8) // in the last batch
	o := logOptions(c.files)
	o.Mark = c.ends[3]
	l, notes, err := disk.OpenLog(o)
	require.NoError(t, err)
	require.Equal(t, uint64(6), l.Last())
	require.Len(t, notes, 1)
	require.Equal(t, []any{c.paths[1], at, smallSize - at}, []any{notes[0].File, notes[0].Offset, notes[0].Bytes})
	require.NoError(t, l.Append(logEntries(7, 7, 4, 0)))
	require.NoError(t, l.Close())
	l = openLog(t, c.files.Crash(0), l.End())
	requireLog(t, l, 1, 1, 1, 2, 2, 2, 2, 4)

	c = newDamageCase(t)
	o.Files, o.Mark = c.files, c.full()
	c.files.Flip(c.paths[1], (at+120)*8)
	_, _, err = disk.OpenLog(o)
	var damage *disk.DamageError
	require.ErrorAs(t, err, &damage)
	require.Equal(t, c.paths[1], damage.File)
	require.GreaterOrEqual(t, damage.Offset, at)
	require.Contains(t, err.Error(), c.paths[1]+" is damaged at offset ")
}

// TestReadsAreChecked damages a log that is open.
func TestReadsAreChecked(t *testing.T) {
	f := disktest.New()
	l := openLog(t, f, disk.LogEnd{})
	require.NoError(t, l.Append(logEntries(1, 3, 1, 50)))
	path := segments(f)[0]
	data := f.Data(path)
	for bit := 96 * 8; bit < int(l.End().Offset)*8; bit++ {
		f.Flip(path, int64(bit))
		bad := 0
		for i := range uint64(3) {
			if err := l.Get(i+1, &raft.Log{}); err != nil {
				require.True(t, isLoss(err), "%v", err)
				bad++
			}
		}
		require.Equal(t, 1, bad, "bit %d", bit)
		f.Flip(path, int64(bit))
	}
	f.Cut(path, 200)
	require.True(t, isLoss(l.Get(3, &raft.Log{})))
	f.Put(path, data)
	require.NoError(t, l.Get(3, &raft.Log{}))
}
