package disk_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
)

// TestOpenMakesAFreshDirectory loses power or is killed before each operation
// of the first start, and starts again.
func TestOpenMakesAFreshDirectory(t *testing.T) {
	for k, whole := 1, false; !whole; k++ {
		f := disktest.New()
		require.NoError(t, f.MakeDir(dir))
		f.HaltAt(changing(k))
		first, err := disk.Open(f, dir, owner, scan(f))
		whole = err == nil
		for _, f := range restarts(f, 30) {
			s, err := disk.Open(f, dir, owner, scan(f))
			require.NoError(t, err, "before operation %d", k)
			require.Equal(t, disk.Fresh, s.Condition)
			require.Equal(t, owner, s.Identity.Owner)
			require.False(t, s.Identity.Life.IsZero())
			require.Equal(t, disk.Vote{Life: s.Identity.Life}, s.Vote)
			require.Equal(t, disk.Mark{Life: s.Identity.Life}, s.Mark)
			if whole {
				require.Equal(t, first, s, "the life stays")
			}
			again, err := disk.Open(f.Crash(0), dir, owner, scan(f))
			require.NoError(t, err)
			require.Equal(t, s, again)
		}
	}
}

// seedsOf returns how many seeds a test tries: all of them in the slow profile.
func seedsOf(few, all uint64) uint64 {
	if os.Getenv("HOLDFAST_PROFILE") == "slow" {
		return all
	}
	return few
}

// restarts returns the states that a start may find: after a kill, and after the power was
// lost.
func restarts(f *disktest.FS, seeds uint64) []*disktest.FS {
	all := []*disktest.FS{f.Kill()}
	for seed := range seeds {
		all = append(all, f.Crash(seed))
	}
	return all
}

func TestMakeKeepsVotes(t *testing.T) {
	f := newDir(t, founded())
	require.ErrorContains(t, disk.Make(f, dir, founded()), "still has a vote or a mark")
	f.Delete("/d/mark.a")
	f.Delete("/d/mark.b")
	require.ErrorContains(t, disk.Make(f, dir, founded()), "still has a vote or a mark")
	require.Error(t, disk.WriteIdentity(f, dir, disk.Identity{Owner: owner}), "no life")
	_, v, err := disk.OpenVote(f, dir)
	require.NoError(t, err)
	require.Equal(t, uint64(3), v.Term)
}

// TestSetAside moves the content of several kinds of directories, with a crash before
// each operation, and begins another life. At no time may the old life take
// part without all that it had, and nothing is lost.
func TestSetAside(t *testing.T) {
	next := disk.Identity{Owner: owner, Incarnation: inc, Life: lifeB}
	for name, spoil := range map[string]func(*testing.T, *disktest.FS){
		"complete": func(*testing.T, *disktest.FS) {},
		"mark that lags": func(t *testing.T, f *disktest.FS) {
			require.NoError(t, disk.CreateMirror(f, vote, disk.Vote{Life: lifeA, Term: 1}.Encode()))
			require.NoError(t, disk.CreateMirror(f, "/d/mark", disk.Mark{Life: lifeA}.Encode()))
		},
		"no mark":          remove("mark.a", "mark.b"),
		"no vote":          remove("vote.a", "vote.b"),
		"damaged log":      func(_ *testing.T, f *disktest.FS) { f.Flip(segment, 3) },
		"damaged mark":     flipBoth("mark"),
		"damaged vote":     flipBoth("vote"),
		"damaged identity": func(_ *testing.T, f *disktest.FS) { f.Flip("/d/identity.json", 100) },
		"no identity":      remove("identity.json"),
		"old identity": func(t *testing.T, f *disktest.FS) {
			require.NoError(t, disk.WriteIdentity(f, dir, disk.Identity{Owner: owner, Life: lifeA}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			whole := newDir(t, founded())
			require.NoError(t, whole.MakeDir("/d/snap"))
			require.NoError(t, whole.MakeDir("/d/lost-00"))
			whole.Put(snapshot, []byte("entries"))
			whole.Put("/d/lost-00/x", []byte("of an earlier loss"))
			spoil(t, whole)
			kept := map[string]string{}
			for _, path := range whole.Paths() {
				if data := whole.Data(path); !strings.HasPrefix(path, "/d/lost-") {
					kept[strings.TrimPrefix(path, dir)] = string(data)
				}
			}
			before, _ := disk.Inspect(whole, dir, owner, scan(whole))
			for k, done := 1, false; !done; k++ {
				f := whole.Kill()
				f.HaltAt(changing(k))
				err := disk.SetAside(f, dir, lifeA)
				if err == nil {
					err = disk.Make(f, dir, next)
				}
				done = err == nil
				for _, f := range restarts(f, seedsOf(3, 12)) {
					s, _ := disk.Open(f, dir, owner, scan(f))
					checkOldLife(t, f, before, s, done)
					if s.Identity.Life != lifeB {
						require.NoError(t, disk.SetAside(f, dir, lifeA), "before operation %d", k)
						require.NoError(t, disk.Make(f, dir, next), "before operation %d", k)
					}
					f = f.Crash(0)
					s, err := disk.Inspect(f, dir, owner, scan(f))
					require.NoError(t, err)
					require.Equal(t, disk.Joiner, s.Condition)
					require.Equal(t, next, s.Identity)
					require.Equal(t, disk.Vote{Life: lifeB}, s.Vote)
					require.Nil(t, f.Data("/d/lost-00/x"))
					for path, data := range kept {
						require.Equal(t, data, string(f.Data(disk.LostDir(dir, lifeA)+path)), "%s, before operation %d", path, k)
					}
				}
			}
		})
	}
}

// checkOldLife fails if the old life could begin without its data.
func checkOldLife(t *testing.T, f *disktest.FS, before, now disk.State, done bool) {
	t.Helper()
	if now.Identity.Life == lifeB {
		require.Equal(t, disk.Joiner, now.Condition)
		return
	}
	require.False(t, done)
	switch now.Condition {
	case disk.Short, disk.Damaged:
	case disk.Fresh:
		require.NotEqual(t, lifeA, now.Identity.Life)
	default:
		require.Equal(t, before, now)
		require.Equal(t, entries, string(f.Data(segment)))
		require.NotNil(t, f.Data(snapshot))
	}
}

func TestSetAsideTwice(t *testing.T) {
	f := newDir(t, founded())
	require.NoError(t, disk.SetAside(f, dir, lifeA))
	// A life that was not begun, and that left files.
	require.NoError(t, disk.CreateMirror(f, "/d/mark", disk.Mark{Life: lifeB}.Encode()))
	require.NoError(t, disk.SetAside(f, dir, lifeA))
	require.NotNil(t, f.Data("/d/lost-0a01000000000000/mark.a.2"))
	require.Nil(t, f.Data("/d/mark.a"))
}

// TestNoTextAdvisesToCopyOrEmpty looks through the texts of the package.
func TestNoTextAdvisesToCopyOrEmpty(t *testing.T) {
	advice := regexp.MustCompile(`(?i)\b(a copy|copy of|restore|empty it|empty the|delete the|remove the)\b`)
	paths, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		require.NoError(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			if text, ok := n.(*ast.BasicLit); ok && text.Kind == token.STRING {
				require.NotRegexp(t, advice, text.Value, path)
			}
			return true
		})
	}
	damage := &disk.DamageError{File: "/d/log/1.seg", Offset: 4096, What: "no valid record"}
	require.EqualError(t, &disk.RejoinError{Dir: dir, Err: damage},
		"/d/log/1.seg is damaged at offset 4096: no valid record: this node must not vote with this data. If a majority of the other nodes runs, "+
			"start this node once with rejoin=true: it moves its data to /d/lost-…, and gets everything from the others before it votes again. "+
			"Copying files from another node or a backup loses acknowledged writes")
	require.ErrorIs(t, &disk.RejoinError{Err: fs.ErrNotExist}, fs.ErrNotExist)
}
