package state

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/codec"
)

func sampleCommands() []Command {
	return []Command{
		{Kind: KindTerm, Term: 7},
		{Kind: KindOpen, Nonce: Nonce{1, 2, 3}},
		{Kind: KindTxn, Client: 5, Seq: 6, Low: 4, Txn: dcs.Txn{
			If:   []dcs.Cond{dcs.Absent("a"), dcs.CreatedAt("b", 1<<60), dcs.ModifiedAt("c", 3)},
			Then: []dcs.Write{dcs.Put("a/b", []byte{0, 255}), dcs.PutLeased("d", []byte("v"), "r-1"), dcs.Delete("e")},
		}},
		{Kind: KindGrant, Client: 5, Seq: 7, Low: 7, Lease: "r-1", TTL: 24 * time.Hour},
		{Kind: KindRevoke, Client: 5, Seq: 8, Low: 7, Lease: "r-1"},
		{Kind: KindExpire, Term: 9, Leases: []dcs.LeaseID{"r-1", "r-2"}},
		{Kind: KindCancel, Client: 5, Seq: 6, Low: 4},
		{Kind: KindLevel, Level: 1},
	}
}

func TestCommandSurvivesTheLog(t *testing.T) {
	for _, c := range sampleCommands() {
		data := c.Encode()
		require.LessOrEqual(t, len(data), c.size(), "kind %d: encode allocates twice", c.Kind)
		got, err := DecodeCommand(data)
		require.NoError(t, err)
		require.Equal(t, c, got)
		for cut := range data {
			_, err := DecodeCommand(data[:cut])
			require.Error(t, err, "kind %d cut to %d bytes", c.Kind, cut)
		}
		_, err = DecodeCommand(append(data, 0))
		require.ErrorIs(t, err, codec.ErrShort)
	}
}

func TestCommandOfNewerVersion(t *testing.T) {
	data := (&Command{Kind: KindTerm}).Encode()
	data[0] = Level + 1
	_, err := DecodeCommand(data)
	var version *codec.FormatError
	require.ErrorAs(t, err, &version)
	require.Contains(t, err.Error(), "format version 2")
	require.Contains(t, err.Error(), "run the release that wrote it")
}

func FuzzDecodeCommand(f *testing.F) {
	for _, c := range sampleCommands() {
		f.Add(c.Encode())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := DecodeCommand(data)
		if err != nil {
			return
		}
		again, err := DecodeCommand(c.Encode())
		require.NoError(t, err)
		require.Equal(t, c, again)
	})
}
