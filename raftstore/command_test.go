package raftstore

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

func sampleCommands() []command {
	return []command{
		{kind: cmdTerm, term: 7},
		{kind: cmdOpen, nonce: nonce{1, 2, 3}},
		{kind: cmdTxn, client: 5, seq: 6, low: 4, txn: dcs.Txn{
			If:   []dcs.Cond{dcs.Absent("a"), dcs.CreatedAt("b", 1<<60), dcs.ModifiedAt("c", 3)},
			Then: []dcs.Write{dcs.Put("a/b", []byte{0, 255}), dcs.PutLeased("d", []byte("v"), "r-1"), dcs.Delete("e")},
		}},
		{kind: cmdGrant, client: 5, seq: 7, low: 7, lease: "r-1", ttl: 24 * time.Hour},
		{kind: cmdRevoke, client: 5, seq: 8, low: 7, lease: "r-1"},
		{kind: cmdExpire, term: 9, leases: []dcs.LeaseID{"r-1", "r-2"}},
		{kind: cmdCancel, client: 5, seq: 6, low: 4},
	}
}

func TestCommandSurvivesTheLog(t *testing.T) {
	for _, c := range sampleCommands() {
		data := c.encode()
		require.LessOrEqual(t, len(data), c.size(), "kind %d: encode allocates twice", c.kind)
		got, err := decodeCommand(data)
		require.NoError(t, err)
		require.Equal(t, c, got)
		for cut := range data {
			_, err := decodeCommand(data[:cut])
			require.Error(t, err, "kind %d cut to %d bytes", c.kind, cut)
		}
		_, err = decodeCommand(append(data, 0))
		require.ErrorIs(t, err, errShort)
	}
}

func TestCommandOfNewerVersion(t *testing.T) {
	data := (&command{kind: cmdTerm}).encode()
	data[0] = commandVersion + 1
	_, err := decodeCommand(data)
	var version *formatError
	require.ErrorAs(t, err, &version)
	require.Contains(t, err.Error(), "format version 2")
	require.Contains(t, err.Error(), "run the release that wrote it")
}

func FuzzDecodeCommand(f *testing.F) {
	for _, c := range sampleCommands() {
		f.Add(c.encode())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeCommand(data)
		if err != nil {
			return
		}
		again, err := decodeCommand(c.encode())
		require.NoError(t, err)
		require.Equal(t, c, again)
	})
}

func FuzzDecodeCall(f *testing.F) {
	for op := opPropose; op <= opPosition; op++ {
		r := request{op: op, voter: "a", term: 3, prefix: "p", since: 4, lease: "l", keys: []string{"k"}, data: []byte("d")}
		f.Add(op, r.encode())
	}
	rep := reply{kind: replyDone, entries: []dcs.Entry{{Key: "k", Value: []byte("v")}}, result: result{status: statusConflict, current: &dcs.Entry{}}}
	f.Add(opQuestion, rep.encode())
	f.Fuzz(func(t *testing.T, op byte, data []byte) {
		if r, err := decodeRequest(op, data); err == nil {
			again, err := decodeRequest(op, r.encode())
			require.NoError(t, err)
			require.Equal(t, r, again)
		}
		if r, err := decodeReply(data); err == nil {
			again, err := decodeReply(r.encode())
			require.NoError(t, err)
			require.Equal(t, r, again)
		}
	})
}
