package disk_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

var backupHead = disk.BackupHead{Root: "pg/main", Incarnation: inc, Former: []disk.Incarnation{incB}, Index: 17, Term: 3}

func writeBackup(t testing.TB, content []byte) []byte {
	t.Helper()
	to := &bytes.Buffer{}
	w, err := disk.NewBackupWriter(to, backupHead)
	require.NoError(t, err)
	_, err = w.Write(content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return to.Bytes()
}

func readBackup(from io.Reader) (disk.BackupHead, []byte, error) {
	h, r, err := disk.NewBackupReader(from)
	if err != nil {
		return h, nil, err
	}
	content, err := io.ReadAll(r)
	return h, content, err
}

func TestBackupIsRead(t *testing.T) {
	for _, size := range []int{0, 1, chunkSize, 2*chunkSize + 5} {
		content := snapContent(1, size)
		b := writeBackup(t, content)
		h, got, err := readBackup(iotest.OneByteReader(bytes.NewReader(b)))
		require.NoError(t, err)
		require.Equal(t, backupHead, h)
		require.True(t, bytes.Equal(content, got))
	}
}

// Each flipped bit, each cut and each byte behind the end is found.
func TestDamagedBackup(t *testing.T) {
	b := writeBackup(t, snapContent(1, 300))
	var damage *disk.DamageError
	for bit := range 8 * len(b) {
		bad := bytes.Clone(b)
		bad[bit/8] ^= 1 << (bit % 8)
		_, _, err := readBackup(bytes.NewReader(bad))
		require.ErrorAs(t, err, &damage, "bit %d", bit)
	}
	for cut := range b {
		_, _, err := readBackup(bytes.NewReader(b[:cut]))
		require.ErrorAs(t, err, &damage, "cut to %d", cut)
		require.ErrorContains(t, err, "cut off")
	}
	_, _, err := readBackup(bytes.NewReader(append(bytes.Clone(b), 0)))
	require.ErrorContains(t, err, "goes on behind its end")
	b[7]++
	_, _, err = readBackup(bytes.NewReader(b))
	require.ErrorContains(t, err, "it has version 2, and this release reads version 1")
	lost := errors.New("the disk is gone")
	_, _, err = readBackup(iotest.ErrReader(lost))
	require.ErrorIs(t, err, lost)
}

func TestBackupIsNotWritten(t *testing.T) {
	full := errors.New("no space")
	_, err := disk.NewBackupWriter(failingWriter{full}, backupHead)
	require.ErrorIs(t, err, full)
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// FuzzBackup reads files that may be no backup. It must not panic or take more memory
// than a chunk and a description, and a changed backup is refused.
func FuzzBackup(f *testing.F) {
	good := writeBackup(f, snapContent(1, 300))
	for i := 0; i < len(good); i += 16 {
		f.Add(uint16(i), []byte{0xff}, false)
	}
	f.Add(uint16(8), []byte{0xff, 0xff, 0xff, 0xff}, false)
	f.Add(uint16(200), []byte{}, true)
	f.Fuzz(func(t *testing.T, at uint16, patch []byte, cut bool) {
		b := bytes.Clone(good)
		offset := int(at) % len(b)
		if cut {
			b = append(b[:offset], patch...)
		} else {
			copy(b[offset:], patch)
		}
		_, content, err := readBackup(bytes.NewReader(b))
		if bytes.Equal(b, good) {
			require.NoError(t, err)
			return
		}
		require.Error(t, err)
		require.LessOrEqual(t, len(content), len(b))
	})
}
