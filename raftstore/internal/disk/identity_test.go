package disk_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
)

var (
	owner = disk.Owner{Node: "a", Cluster: "c0", Root: "pg/main", Members: []string{"a", "b"}}
	lifeA = disk.Life{0xa, 1}
	lifeB = disk.Life{0xb, 2}
	inc   = disk.Incarnation{1, 2, 3}
)

// founded returns the identity of a founder.
func founded() disk.Identity {
	return disk.Identity{Owner: owner, Incarnation: inc, Life: lifeA, Founders: map[string]disk.Life{"a": lifeA, "b": lifeB}}
}

func TestLife(t *testing.T) {
	require.NotEqual(t, disk.NewLife(), disk.NewLife())
	require.NotEqual(t, disk.NewIncarnation(), disk.NewIncarnation())
	require.Equal(t, "0a01000000000000", lifeA.String())
	l, err := disk.ParseLife(lifeA.String())
	require.NoError(t, err)
	require.Equal(t, lifeA, l)
	var i disk.Incarnation
	require.NoError(t, i.UnmarshalText([]byte(inc.String())))
	require.Equal(t, inc, i)
	for _, s := range []string{
		"", "0", "0000000000000000", strings.ToUpper(lifeA.String()), lifeA.String() + "0", lifeA.String() + "00", inc.String(), " " + lifeA.String()[1:],
	} {
		l, err := disk.ParseLife(s)
		require.ErrorContains(t, err, "no life", s)
		require.True(t, l.IsZero())
	}
	require.ErrorContains(t, i.UnmarshalText([]byte(lifeA.String())), "no incarnation")
}

func TestIdentityCodec(t *testing.T) {
	for _, i := range []disk.Identity{
		founded(),
		{Owner: owner, Life: lifeA},
		{Owner: owner, Life: lifeA, Incarnation: inc},
		{Owner: owner, Life: lifeA, Incarnation: inc, Former: []disk.Incarnation{{7}, {8}}},
	} {
		data, err := i.Encode()
		require.NoError(t, err)
		got, err := disk.DecodeIdentity(data)
		require.NoError(t, err)
		require.Equal(t, i, got)
		for bit := range len(data) * 8 {
			bad := bytes.Clone(data)
			bad[bit/8] ^= 1 << (bit % 8)
			if got, err := disk.DecodeIdentity(bad); err == nil {
				t.Fatalf("bit %d: %+v", bit, got)
			}
		}
	}
	require.True(t, founded().IsFounder())
	i := founded()
	i.Life = lifeB
	require.False(t, i.IsFounder())
	require.False(t, disk.Identity{Owner: owner, Life: lifeA}.IsFounder())
}

func TestIdentityOfAnotherVersion(t *testing.T) {
	for format, want := range map[int]string{
		1: "format 1 was written by a development version and cannot be read by this release: run the build that wrote it",
		3: "format 3 is of another version, this release reads format 2: run the release that wrote it, or a newer one",
	} {
		_, err := disk.DecodeIdentity(fmt.Appendf(nil, `{"format": %d, "novelty": true}`, format))
		var wrong *disk.FormatError
		require.ErrorAs(t, err, &wrong)
		require.ErrorContains(t, err, want)
	}
}

func TestVoteAndMarkCodec(t *testing.T) {
	v := disk.Vote{Life: lifeA, Term: 7, VoteTerm: 6, Candidate: bytes.Repeat([]byte("b"), disk.MaxCandidate)}
	require.LessOrEqual(t, len(v.Encode()), disk.MaxMirror)
	got, err := disk.DecodeVote(v.Encode())
	require.NoError(t, err)
	require.Equal(t, v, got)
	require.False(t, v.IsEmpty())
	require.True(t, disk.Vote{Life: lifeA}.IsEmpty())

	m := disk.Mark{
		Life: lifeA, VoteSeq: 5, Starts: 9,
		Log: disk.LogEnd{Position: disk.Position{Segment: 3, Offset: 4096}, Index: 120, Term: 7},
	}
	back, err := disk.DecodeMark(m.Encode())
	require.NoError(t, err)
	require.Equal(t, m, back)
	require.False(t, m.IsEmpty())
	require.True(t, disk.Mark{Life: lifeA, Starts: 3, VoteSeq: 2}.IsEmpty(), "a start is no entry")
}

func TestOpenVoteAndMark(t *testing.T) {
	f := disktest.New()
	require.NoError(t, f.MakeDir(dir))
	require.NoError(t, disk.Make(f, dir, founded()))
	m, v, err := disk.OpenVote(f, dir)
	require.NoError(t, err)
	require.Equal(t, disk.Vote{Life: lifeA}, v)
	v.Term = 4
	require.NoError(t, m.Store(v.Encode()))
	require.NoError(t, m.Close())
	m, mark, err := disk.OpenMark(f, dir)
	require.NoError(t, err)
	require.Equal(t, disk.Mark{Life: lifeA}, mark)
	require.NoError(t, m.Close())
	require.NoError(t, disk.CreateMirror(f, "/d/mark", []byte("short")))
	_, _, err = disk.OpenMark(f, dir)
	var damage *disk.DamageError
	require.ErrorAs(t, err, &damage)
	require.Equal(t, "/d/mark.a", damage.File)
	require.Empty(t, f.OpenFiles())
}

// FuzzIdentity accepts nothing but the output of Encode.
func FuzzIdentity(f *testing.F) {
	for _, i := range []disk.Identity{founded(), {Owner: owner, Life: lifeA}} {
		data, err := i.Encode()
		require.NoError(f, err)
		f.Add(data)
	}
	f.Add([]byte(`{"format": 1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		i, err := disk.DecodeIdentity(data)
		if err != nil {
			return
		}
		written, err := i.Encode()
		require.NoError(t, err)
		require.Equal(t, data, written)
		require.False(t, i.Life.IsZero())
	})
}

// FuzzVoteAndMark accepts nothing but the output of Encode.
func FuzzVoteAndMark(f *testing.F) {
	f.Add(disk.Vote{Life: lifeA, Term: 7, VoteTerm: 6, Candidate: []byte("b")}.Encode())
	f.Add(disk.Mark{Life: lifeA, Log: disk.LogEnd{Index: 1}}.Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		if v, err := disk.DecodeVote(data); err == nil {
			require.Equal(t, data, v.Encode())
		}
		if m, err := disk.DecodeMark(data); err == nil {
			require.Equal(t, data, m.Encode())
		}
	})
}
