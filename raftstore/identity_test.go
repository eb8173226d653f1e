package raftstore

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/logging"
)

func dirConfig(t *testing.T) Config {
	t.Helper()
	return Config{
		ID: "a", Dir: filepath.Join(t.TempDir(), "data", "a"), Root: "pg/main",
		Peers: []Peer{{"a", "127.0.0.1:7001"}, {"b", "127.0.0.1:7002"}},
	}
}

func openTestDir(c Config) (*dataDir, error) {
	return openDir(c, testHooks(), logging.NewHCLogger(nil))
}

func mustOpenDir(t *testing.T, c Config) *dataDir {
	t.Helper()
	d, err := openTestDir(c)
	require.NoError(t, err)
	return d
}

func TestDirIsMadeAndKept(t *testing.T) {
	c := dirConfig(t)
	d := mustOpenDir(t, c)
	life := d.state.Identity.Life
	require.Equal(t, disk.Fresh, d.state.Condition)
	require.False(t, life.IsZero())
	info, err := os.Stat(c.Dir)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), info.Mode().Perm())
	info, err = os.Stat(identityPath(c.Dir))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
	require.NoError(t, d.close())

	// The same peers in another order and at other addresses are the same
	// cluster.
	c.Peers = []Peer{{"b", "127.0.0.1:8002"}, {"a", "127.0.0.1:8001"}}
	d = mustOpenDir(t, c)
	require.Equal(t, life, d.state.Identity.Life)
	require.NoError(t, d.close())
}

func TestDirIsLocked(t *testing.T) {
	c := dirConfig(t)
	d := mustOpenDir(t, c)
	_, err := openTestDir(c)
	require.ErrorIs(t, err, errDirInUse)
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.ErrorContains(t, err, c.Dir)
	require.NoError(t, d.close())
	require.NoError(t, mustOpenDir(t, c).close())
}

// TestDirIsLockedByAnotherProcess starts this test again as the other process.
func TestDirIsLockedByAnotherProcess(t *testing.T) {
	const env = "HOLDFAST_TEST_LOCK_DIR"
	c := dirConfig(t)
	if dir := os.Getenv(env); dir != "" {
		c.Dir = dir
		mustOpenDir(t, c)
		os.Stdout.WriteString("locked\n")
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // until killed
		return
	}
	other := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDirIsLockedByAnotherProcess$") //nolint:gosec // G702: this very test
	other.Env = append(os.Environ(), env+"="+c.Dir)
	in, err := other.StdinPipe()
	require.NoError(t, err)
	defer in.Close()
	out, err := other.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, other.Start())
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan())
	require.Equal(t, "locked", lines.Text())

	_, err = openTestDir(c)
	require.ErrorIs(t, err, errDirInUse)
	require.NoError(t, other.Process.Kill())
	require.Error(t, other.Wait())
	require.NoError(t, mustOpenDir(t, c).close(), "kill -9 leaves no lock behind")
}

func TestDirOfAnother(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*Config)
		want []string
	}{
		"node": {func(c *Config) { c.ID = "b" }, []string{`node "a"'s and this node is "b"`}},
		"root": {func(c *Config) { c.Root = "pg/other" }, []string{"another cluster", `Root is "pg/main"`, `the settings is "pg/other"`}},
	} {
		t.Run(name, func(t *testing.T) {
			c := dirConfig(t)
			require.NoError(t, mustOpenDir(t, c).close())
			before, err := os.ReadFile(identityPath(c.Dir))
			require.NoError(t, err)
			tc.edit(&c)
			_, err = openTestDir(c)
			require.ErrorIs(t, err, dcs.ErrInvalid)
			require.ErrorContains(t, err, identityPath(c.Dir))
			for _, want := range tc.want {
				require.ErrorContains(t, err, want)
			}
			after, err := os.ReadFile(identityPath(c.Dir))
			require.NoError(t, err)
			require.Equal(t, string(before), string(after), "nothing is changed")
			c = dirConfig(t) // the lock is free again
		})
	}
}

func TestBadIdentityFile(t *testing.T) {
	for name, tc := range map[string]struct {
		content string
		kind    error
		want    string
	}{
		"empty":       {"", dcs.ErrUnavailable, "must not vote with this data"},
		"not JSON":    {"\x00\x00\x00\x00", dcs.ErrUnavailable, "must not vote with this data"},
		"development": {`{"format":1,"node":"a"}`, dcs.ErrInvalid, "written by a development version"},
		"much newer":  {`{"format":9,"everything":"different"}`, dcs.ErrInvalid, "run the release that wrote it"},
	} {
		t.Run(name, func(t *testing.T) {
			c := dirConfig(t)
			require.NoError(t, os.MkdirAll(c.Dir, 0o700))
			path := identityPath(c.Dir)
			require.NoError(t, os.WriteFile(path, []byte(tc.content), 0o600))
			for range 2 { // twice, because nothing must have changed or stayed locked
				_, err := openTestDir(c)
				require.ErrorIs(t, err, tc.kind)
				require.ErrorContains(t, err, path)
				require.ErrorContains(t, err, tc.want)
			}
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, tc.content, string(content))
		})
	}
}

func TestForeignDirectory(t *testing.T) {
	c := dirConfig(t)
	require.NoError(t, os.MkdirAll(filepath.Join(c.Dir, "photos"), 0o700))
	_, err := openTestDir(c)
	require.ErrorIs(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "has no identity.json but has other files (photos)")

	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	c.Dir = file
	_, err = openTestDir(c)
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.ErrorContains(t, err, file)
}

func TestDirFaults(t *testing.T) {
	fault := errors.New("input/output error")
	for _, op := range []string{"open", "create", "list", "lock", "sync"} {
		t.Run(op, func(t *testing.T) {
			c := dirConfig(t)
			h := testHooks()
			h.files = brokenFiles{FS: disk.OS{}, op: op, err: fault}
			_, err := openDir(c, h, logging.NewHCLogger(nil))
			require.ErrorIs(t, err, fault)
			require.ErrorIs(t, err, dcs.ErrUnavailable)
			require.ErrorContains(t, err, c.Dir)
			d := mustOpenDir(t, c)
			require.Equal(t, disk.Fresh, d.state.Condition, "the directory was partly written")
			require.NoError(t, d.close())
		})
	}
}

// brokenFiles fails one operation.
type brokenFiles struct {
	disk.FS
	op  string
	err error
}

func (f brokenFiles) fail(op string) error {
	if f.op == op {
		return f.err
	}
	return nil
}

func (f brokenFiles) Open(path string) (disk.File, error) {
	if err := f.fail("open"); err != nil {
		return nil, err
	}
	return f.FS.Open(path)
}

func (f brokenFiles) Create(path string) (disk.File, error) {
	if err := f.fail("create"); err != nil {
		return nil, err
	}
	return f.FS.Create(path)
}

func (f brokenFiles) List(dir string) ([]string, error) {
	if err := f.fail("list"); err != nil {
		return nil, err
	}
	return f.FS.List(dir)
}

func (f brokenFiles) SyncDir(dir string) error {
	if err := f.fail("sync"); err != nil {
		return err
	}
	return f.FS.SyncDir(dir)
}

func (f brokenFiles) Lock(path string) (func() error, error) {
	if err := f.fail("lock"); err != nil {
		return nil, err
	}
	return f.FS.Lock(path)
}

func identityPath(dir string) string { return filepath.Join(dir, "identity.json") }
