package disk

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

var recordLife = [8]byte{1, 2, 3}

func encodeRecord(c change, offset, batch int64, last bool) []byte {
	c.offset, c.size = offset, padded(recordHeaderSize+c.payloadSize())
	return appendRecord(nil, recordSeed(recordLife, 7), &c, batch, last)
}

func TestRecordIsBoundToItsPlace(t *testing.T) {
	c := change{kind: recordEntry, entry: &raft.Log{
		Index: 5, Term: 2, Type: raft.LogCommand, Data: []byte("data"), Extensions: []byte("x"), AppendedAt: time.Unix(1, 2),
	}}
	b := encodeRecord(c, 128, 96, true)
	valid := func(b []byte, seed uint32, offset int64) bool {
		h, ok := decodeHeader(b, seed, offset)
		return ok && int64(len(b)) == h.size() && isRecord(b, seed, offset)
	}
	seed := recordSeed(recordLife, 7)
	require.True(t, valid(b, seed, 128))
	require.False(t, valid(b, seed, 136), "another offset")
	require.False(t, valid(b, recordSeed(recordLife, 8), 128), "another segment")
	require.False(t, valid(b, recordSeed([8]byte{1, 2, 4}, 7), 128), "another life")
	for bit := range len(b) * 8 {
		b[bit/8] ^= 1 << (bit % 8)
		require.False(t, valid(b, seed, 128), "bit %d", bit)
		b[bit/8] ^= 1 << (bit % 8)
	}
	h, _ := decodeHeader(b, seed, 128)
	require.Equal(t, recordHeader{kind: recordEntry, last: true, batch: 96, length: entryHeaderSize + 5}, h)
	got, err := decodeChange(h, b[recordHeaderSize:recordHeaderSize+h.length])
	require.NoError(t, err)
	require.Equal(t, c.entry, got.entry)
}

// FuzzRecord decodes any bytes. A valid record is encoded to the same bytes.
func FuzzRecord(f *testing.F) {
	f.Add(encodeRecord(change{kind: recordEntry, entry: &raft.Log{Index: 1, Term: 1, Data: []byte("d")}}, 96, 96, true), false)
	f.Add(encodeRecord(change{kind: recordCutBack, index: 4, term: 3}, 96, 96, true), true)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		const offset = 96
		seed := recordSeed(recordLife, 7)
		if seal && len(b) >= recordHeaderSize { // as if it had been written
			b = append([]byte(nil), b...)
			binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-recordHeaderSize))
			for int64(len(b)) < padded(int64(len(b))) {
				b = append(b, 0)
			}
			binary.LittleEndian.PutUint16(b[10:], headerCheck(b, seed, offset))
			binary.LittleEndian.PutUint32(b, recordSum(b, seed, offset))
		}
		h, ok := decodeHeader(b, seed, offset)
		if !ok || int64(len(b)) < h.size() {
			return
		}
		b = b[:h.size()]
		if !isRecord(b, seed, offset) {
			return
		}
		c, err := decodeChange(h, b[recordHeaderSize:recordHeaderSize+h.length])
		if err == nil {
			require.Equal(t, b, encodeRecord(c, offset, h.batch, h.last))
		}
	})
}

// FuzzSegmentHeader decodes any bytes as the header of a segment.
func FuzzSegmentHeader(f *testing.F) {
	h := segmentHeader{life: recordLife, number: 3, previous: 200, logRange: logRange{1, 2, 3, 4}}
	f.Add(h.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, ok := decodeSegmentHeader(b); ok {
			require.Equal(t, b[:segmentHeaderSize], h.encode())
		}
	})
	_ = h
}
