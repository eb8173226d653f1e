package disk_test

import (
	"bytes"
	"errors"
	"io/fs"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
)

const (
	segment  = "/d/log/1.seg"
	snapshot = "/d/snap/1.snap"
	entries  = "five entries"
)

// logEnd is the end of the log that scan finds in segment.
var logEnd = disk.LogEnd{Position: disk.Position{Segment: 1, Offset: 200}, Index: 5, Term: 2}

// scan returns a Scan of a log with one file: it has five entries, or none if
// it is missing, or is damaged.
func scan(f *disktest.FS) disk.Scan {
	return func(_ disk.Identity, mark disk.Mark) (disk.Stored, error) {
		file, err := f.Open(segment)
		if errors.Is(err, fs.ErrNotExist) {
			return disk.Stored{}, nil
		}
		if err != nil {
			return disk.Stored{}, err
		}
		defer file.Close()
		if !bytes.Equal(f.Data(segment), []byte(entries)) {
			return disk.Stored{}, &disk.DamageError{File: segment, Offset: 96, What: "no valid record"}
		}
		return disk.Stored{First: 1, Log: logEnd}, nil
	}
}

// newDir returns a disk with the data directory of a node that has voted in
// term 3 and that has stored five entries.
func newDir(t *testing.T, i disk.Identity) *disktest.FS {
	t.Helper()
	f := disktest.New()
	require.NoError(t, f.MakeDir("/d/log"))
	require.NoError(t, disk.Make(f, dir, i))
	f.Put(segment, []byte(entries))
	store(t, f, disk.Vote{Life: i.Life, Term: 3}, disk.Mark{Life: i.Life, Log: logEnd, VoteSeq: 1, Starts: 2})
	return f
}

// emptyDir returns a disk with the data directory of a node that has stored
// nothing.
func emptyDir(t *testing.T, i disk.Identity) *disktest.FS {
	t.Helper()
	f := disktest.New()
	require.NoError(t, f.MakeDir(dir))
	require.NoError(t, disk.Make(f, dir, i))
	return f
}

func store(t *testing.T, f *disktest.FS, v disk.Vote, m disk.Mark) {
	t.Helper()
	votes, _, err := disk.OpenVote(f, dir)
	require.NoError(t, err)
	require.NoError(t, votes.Store(v.Encode()))
	require.NoError(t, votes.Close())
	marks, _, err := disk.OpenMark(f, dir)
	require.NoError(t, err)
	require.NoError(t, marks.Store(m.Encode()))
	require.NoError(t, marks.Close())
}

func flipBoth(name string) func(*testing.T, *disktest.FS) {
	return func(_ *testing.T, f *disktest.FS) {
		f.Flip("/d/"+name+".a", 300)
		f.Flip("/d/"+name+".b", 300)
	}
}

func remove(names ...string) func(*testing.T, *disktest.FS) {
	return func(_ *testing.T, f *disktest.FS) {
		for _, name := range names {
			f.Delete("/d/" + name)
		}
	}
}

func put(path, data string) func(*testing.T, *disktest.FS) {
	return func(t *testing.T, f *disktest.FS) {
		require.NoError(t, f.MakeDir("/d/snap"))
		f.Put(path, []byte(data))
	}
}

func TestInspect(t *testing.T) {
	joined := founded()
	joined.Founders = map[string]disk.Life{"a": lifeB, "b": lifeB}
	unfounded := disk.Identity{Owner: owner, Life: lifeA}
	identityOf := func(i disk.Identity) func(*testing.T, *disktest.FS) {
		return func(t *testing.T, f *disktest.FS) { require.NoError(t, disk.WriteIdentity(f, dir, i)) }
	}
	voted := func(term uint64) func(*testing.T, *disktest.FS) {
		return func(t *testing.T, f *disktest.FS) {
			store(t, f, disk.Vote{Life: lifeA, Term: term}, disk.Mark{Life: lifeA})
		}
	}
	nothing := func(*testing.T, *disktest.FS) {}
	cases := []struct {
		name  string
		from  *disktest.FS
		spoil func(*testing.T, *disktest.FS)
		want  disk.Condition
		says  string // part of Reason, or of the error for Damaged
	}{
		{"a new directory", emptyDir(t, unfounded), remove("identity.json", "vote.a", "vote.b", "mark.a", "mark.b"), disk.Fresh, ""},
		{"interrupted before the identity", emptyDir(t, unfounded), remove("identity.json"), disk.Fresh, ""},
		{"interrupted before the mark", emptyDir(t, unfounded), remove("identity.json", "mark.a", "mark.b"), disk.Fresh, ""},
		{"files that are always there", emptyDir(t, unfounded), func(t *testing.T, f *disktest.FS) {
			require.NoError(t, f.MakeDir("/d/lost+found"))
			require.NoError(t, f.MakeDir("/d/lost-0102030405060708"))
			require.NoError(t, f.MakeDir("/d/log"))
			f.Put("/d/lock", nil)
			f.Put("/d/vote.a.new", []byte("part"))
			f.Delete("/d/identity.json")
		}, disk.Fresh, ""},
		{"not founded yet", emptyDir(t, unfounded), nothing, disk.Fresh, ""},
		{"not founded yet and no vote", emptyDir(t, unfounded), remove("vote.a", "vote.b"), disk.Fresh, ""},

		{"founder", emptyDir(t, founded()), nothing, disk.Founder, ""},
		{"founder interrupted before the first entry", emptyDir(t, founded()), voted(1), disk.Founder, ""},
		{"founder with the first entry", emptyDir(t, founded()), func(t *testing.T, f *disktest.FS) {
			require.NoError(t, f.MakeDir("/d/log"))
			f.Put(segment, []byte(entries))
		}, disk.Complete, ""},
		{"founder without the log it had", emptyDir(t, founded()), voted(2), disk.Short, "/d/log: the log is empty, but the node took part in term 2"},

		{"joiner", emptyDir(t, joined), nothing, disk.Joiner, ""},
		{"joiner in a later term", emptyDir(t, joined), voted(9), disk.Joiner, ""},
		{"joiner with data", newDir(t, joined), nothing, disk.Complete, ""},

		{"complete", newDir(t, founded()), nothing, disk.Complete, ""},
		{"one file of each pair is bad", newDir(t, founded()), func(t *testing.T, f *disktest.FS) {
			f.Flip("/d/mark.a", 9)
			f.Delete("/d/vote.b")
		}, disk.Complete, ""},
		{"a mark that lags", newDir(t, founded()), func(t *testing.T, f *disktest.FS) {
			store(t, f, disk.Vote{Life: lifeA, Term: 4}, disk.Mark{Life: lifeA, Log: disk.LogEnd{Position: disk.Position{Segment: 1, Offset: 96}, Index: 9, Term: 1}})
		}, disk.Complete, ""},

		{"no log", newDir(t, founded()), remove("log"), disk.Short, "/d/log"},
		{"no log, judged by index and term", newDir(t, founded()), func(t *testing.T, f *disktest.FS) {
			store(t, f, disk.Vote{Life: lifeA, Term: 4}, disk.Mark{Life: lifeA, Log: disk.LogEnd{Index: 6, Term: 2}})
		}, disk.Short, "/d/log"},
		{"a longer log of a lower term", newDir(t, founded()), func(t *testing.T, f *disktest.FS) {
			store(t, f, disk.Vote{Life: lifeA, Term: 4}, disk.Mark{Life: lifeA, Log: disk.LogEnd{Index: 6, Term: 1}})
		}, disk.Complete, ""},
		{"no marks", newDir(t, founded()), remove("mark.a", "mark.b"), disk.Short, "/d/mark.a and /d/mark.b are missing"},
		{"no votes", newDir(t, founded()), remove("vote.a", "vote.b"), disk.Short, "/d/vote.a and /d/vote.b are missing"},
		{"only the identity", newDir(t, founded()), remove("vote.a", "vote.b", "mark.a", "mark.b", "log"), disk.Short, "missing"},
		{"an old vote", newDir(t, founded()), func(t *testing.T, f *disktest.FS) {
			require.NoError(t, disk.CreateMirror(f, vote, disk.Vote{Life: lifeA}.Encode()))
		}, disk.Short, "/d/vote.a: the vote is an old one: number 0, and 1 was stored"},
		{"a mark of another life", newDir(t, founded()), func(t *testing.T, f *disktest.FS) {
			store(t, f, disk.Vote{Life: lifeA, Term: 3}, disk.Mark{Life: lifeB})
		}, disk.Short, "several lives"},
		{"a vote of another life", newDir(t, founded()), func(t *testing.T, f *disktest.FS) {
			store(t, f, disk.Vote{Life: lifeB, Term: 3}, disk.Mark{Life: lifeA})
		}, disk.Short, "several lives"},

		{"damaged log", newDir(t, founded()), func(_ *testing.T, f *disktest.FS) { f.Flip(segment, 3) }, disk.Damaged, "/d/log/1.seg is damaged at offset 96: no valid record"},
		{"damaged votes", newDir(t, founded()), flipBoth("vote"), disk.Damaged, "/d/vote.a is damaged at offset 0"},
		{"damaged marks", newDir(t, founded()), flipBoth("mark"), disk.Damaged, "/d/mark.a is damaged at offset 0"},
		{"damaged identity", newDir(t, founded()), func(_ *testing.T, f *disktest.FS) { f.Flip("/d/identity.json", 100) }, disk.Damaged, "/d/identity.json is damaged at offset"},
		{"empty identity", newDir(t, founded()), put("/d/identity.json", ""), disk.Damaged, "/d/identity.json is damaged at offset"},
		{"long identity", newDir(t, founded()), put("/d/identity.json", string(make([]byte, 2<<20))), disk.Damaged, "longer"},
		{"no identity next to a log", newDir(t, founded()), remove("identity.json", "vote.a", "vote.b", "mark.a", "mark.b"), disk.Damaged, "/d/identity.json is damaged at offset 0: it is missing"},
		{"no identity next to a snapshot", emptyDir(t, founded()), func(t *testing.T, f *disktest.FS) {
			put(snapshot, "entries")(t, f)
			f.Delete("/d/identity.json")
		}, disk.Damaged, "/d/identity.json is damaged at offset 0: it is missing"},
		{"no identity next to a vote", newDir(t, founded()), remove("identity.json", "log", "mark.a", "mark.b"), disk.Damaged, "it is missing"},
		{"no identity next to a mark", newDir(t, founded()), remove("identity.json", "log", "vote.a", "vote.b"), disk.Damaged, "it is missing"},
		{"an identity from before the founding", newDir(t, founded()), identityOf(unfounded), disk.Damaged, "/d/identity.json is damaged at offset 0: it is of a node that has stored nothing"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f := c.from
			c.spoil(t, f)
			before := f.Count(disktest.Changes()...)
			s, err := disk.Inspect(f, dir, owner, scan(f))
			require.Equal(t, before, f.Count(disktest.Changes()...), "nothing is changed")
			require.Equal(t, c.want.String(), s.Condition.String(), "%v", err)
			require.Empty(t, f.OpenFiles())
			if c.want == disk.Damaged {
				var damage *disk.DamageError
				require.ErrorAs(t, err, &damage)
				require.ErrorContains(t, err, c.says)
				require.ErrorContains(t, err, "start this node once with rejoin=true")
				require.Error(t, s.Reason)
				return
			}
			require.NoError(t, err)
			if c.says == "" {
				require.NoError(t, s.Reason)
			} else {
				require.ErrorContains(t, s.Reason, c.says)
				require.Equal(t, lifeA, s.Life())
			}
		})
	}
}

// TestLogMustJoinASnapshot has logs that begin behind entry 1.
func TestLogMustJoinASnapshot(t *testing.T) {
	end := func(index uint64) disk.LogEnd { return disk.LogEnd{Position: logEnd.Position, Index: index, Term: 2} }
	for _, c := range []struct {
		stored disk.Stored
		want   disk.Condition
		says   string
	}{
		{disk.Stored{First: 1, Log: end(9)}, disk.Complete, ""},
		{disk.Stored{First: 1, Log: end(9), Snapshot: 5}, disk.Complete, ""},
		{disk.Stored{First: 6, Log: end(9), Snapshot: 5}, disk.Complete, ""},
		{disk.Stored{First: 6, Log: end(9), Snapshot: 12}, disk.Complete, ""},
		{disk.Stored{Log: end(5), Snapshot: 5}, disk.Complete, ""},
		{disk.Stored{Log: end(0), Snapshot: 5}, disk.Complete, ""},
		{disk.Stored{First: 7, Log: end(9), Snapshot: 5}, disk.Damaged, "/d/snap is damaged at offset 0: no snapshot has the entries from 6 to 6"},
		{disk.Stored{First: 7, Log: end(9)}, disk.Damaged, "from 1 to 6"},
		{disk.Stored{Log: end(9), Snapshot: 5}, disk.Damaged, "from 6 to 9"},
	} {
		f := newDir(t, founded())
		s, err := disk.Inspect(f, dir, owner, func(disk.Identity, disk.Mark) (disk.Stored, error) { return c.stored, nil })
		require.Equal(t, c.want, s.Condition, "%+v", c.stored)
		if c.says == "" {
			require.NoError(t, err)
			require.Equal(t, c.stored, s.Stored)
		} else {
			require.ErrorContains(t, err, c.says)
		}
	}
}

func TestScanGetsAndReturns(t *testing.T) {
	f := newDir(t, founded())
	s, err := disk.Inspect(f, dir, owner, func(own disk.Identity, mark disk.Mark) (disk.Stored, error) {
		require.Equal(t, lifeA, own.Life)
		require.Equal(t, disk.Mark{Life: lifeA, Log: logEnd, VoteSeq: 1, Starts: 2}, mark)
		return disk.Stored{}, &disk.ShortError{Dir: "/d/log", Had: mark.Log}
	})
	require.NoError(t, err)
	require.Equal(t, disk.Short, s.Condition)
	require.Equal(t, founded(), s.Identity)
	var short *disk.ShortError
	require.ErrorAs(t, s.Reason, &short)

	_, err = disk.Inspect(f, dir, owner, func(disk.Identity, disk.Mark) (disk.Stored, error) { return disk.Stored{}, syscall.EMFILE })
	require.ErrorIs(t, err, syscall.EMFILE)
}

func TestDirectoryOfAnother(t *testing.T) {
	f := newDir(t, founded())
	want := owner
	want.Node = "b"
	_, err := disk.Inspect(f, dir, want, scan(f))
	var other *disk.OwnerError
	require.ErrorAs(t, err, &other)
	require.ErrorContains(t, err, `/d/identity.json: the directory is node "a"'s and this node is "b"`)
	want = owner
	want.Members = []string{"a"}
	_, err = disk.Inspect(f, dir, want, scan(f))
	require.NotErrorAs(t, err, &other, "the nodes of a cluster change")
	want.Root = "pg/other"
	_, err = disk.Inspect(f, dir, want, scan(f))
	require.ErrorContains(t, err, `its Root is "pg/main", and that of the settings is "pg/other"`)

	f = disktest.New()
	require.NoError(t, f.MakeDir("/d/pictures"))
	_, err = disk.Inspect(f, dir, owner, scan(f))
	var stranger *disk.StrangerError
	require.ErrorAs(t, err, &stranger)
	require.ErrorContains(t, err, "pictures")

	f.Put("/d/identity.json", []byte(`{"format":1}`))
	_, err = disk.Inspect(f, dir, owner, scan(f))
	require.ErrorContains(t, err, "/d/identity.json: format 1 was written by a development version")
}

// TestInspectReportsFaults lets each operation fail: a fault that may pass is
// never taken for a loss.
func TestInspectReportsFaults(t *testing.T) {
	for k := 1; ; k++ {
		f := newDir(t, founded())
		fired := false
		at := disktest.Nth(k, disktest.Any())
		f.Fail(func(op disktest.Op) bool {
			matches := at(op)
			fired = fired || matches
			return matches
		}, syscall.EIO)
		s, err := disk.Inspect(f, dir, owner, scan(f))
		if err == nil {
			require.Equal(t, disk.Complete, s.Condition, "operation %d", k)
		} else {
			require.ErrorIs(t, err, syscall.EIO)
			require.NotEqual(t, disk.Damaged, s.Condition)
		}
		if !fired {
			return
		}
	}
}
