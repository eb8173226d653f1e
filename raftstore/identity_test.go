package raftstore

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

func dirConfig(t *testing.T) Config {
	t.Helper()
	return Config{
		ID: "a", Dir: filepath.Join(t.TempDir(), "data", "a"), Root: "pg/main",
		Peers: []Peer{{"a", "127.0.0.1:7001"}, {"b", "127.0.0.1:7002"}},
	}
}

func mustOpenDir(t *testing.T, c Config) *dataDir {
	t.Helper()
	d, err := openDir(c, osFiles{})
	require.NoError(t, err)
	return d
}

func TestDirIsMadeAndKept(t *testing.T) {
	c := dirConfig(t)
	d := mustOpenDir(t, c)
	require.True(t, d.fresh)
	for _, dir := range []string{c.Dir, d.logDir(), d.snapsDir()} {
		info, err := os.Stat(dir)
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o700), info.Mode().Perm(), dir)
	}
	info, err := os.Stat(filepath.Join(c.Dir, identityFile))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
	require.NoError(t, d.close())

	// The same peers in another order and at other addresses are the same
	// cluster.
	c.Peers = []Peer{{"b", "127.0.0.1:8002"}, {"a", "127.0.0.1:8001"}}
	d = mustOpenDir(t, c)
	require.False(t, d.fresh)
	require.NoError(t, d.close())
}

func TestDirIsLocked(t *testing.T) {
	c := dirConfig(t)
	d := mustOpenDir(t, c)
	_, err := openDir(c, osFiles{})
	require.ErrorIs(t, err, errDirInUse)
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.ErrorContains(t, err, c.Dir)
	require.NoError(t, d.close())
	require.NoError(t, mustOpenDir(t, c).close())
}

// TestDirIsLockedByAnotherProcess starts this test again as the other one.
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
	other := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDirIsLockedByAnotherProcess$") //nolint:gosec // this very test
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

	_, err = openDir(c, osFiles{})
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
		"node":  {func(c *Config) { c.ID = "b" }, []string{`node "a"'s and this node is "b"`}},
		"root":  {func(c *Config) { c.Root = "pg/other" }, []string{"another cluster", `Root "pg/main"`, `Root "pg/other"`}},
		"peers": {func(c *Config) { c.Peers = c.Peers[:1] }, []string{"another cluster", "with nodes a, b", "with nodes a:"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := dirConfig(t)
			require.NoError(t, mustOpenDir(t, c).close())
			before, err := os.ReadFile(filepath.Join(c.Dir, identityFile))
			require.NoError(t, err)
			tc.edit(&c)
			_, err = openDir(c, osFiles{})
			require.ErrorIs(t, err, dcs.ErrInvalid)
			require.ErrorContains(t, err, filepath.Join(c.Dir, identityFile))
			for _, want := range tc.want {
				require.ErrorContains(t, err, want)
			}
			after, err := os.ReadFile(filepath.Join(c.Dir, identityFile))
			require.NoError(t, err)
			require.Equal(t, string(before), string(after), "nothing is changed")
			c = dirConfig(t) // and the lock is free again
		})
	}
}

func TestBadIdentityFile(t *testing.T) {
	good, err := dirConfig(t).identity().encode()
	require.NoError(t, err)
	newer := dirConfig(t).identity()
	newer.Format = 2
	newerData, err := newer.encode()
	require.NoError(t, err)
	for name, tc := range map[string]struct{ content, want string }{
		"empty":         {"", "is corrupt"},
		"cut off":       {string(good[:len(good)/2]), "is corrupt"},
		"not JSON":      {"\x00\x00\x00\x00", "is corrupt"},
		"changed":       {strings.Replace(string(good), `"a"`, `"z"`, 1), "checksum does not match"},
		"no format":     {`{"node":"a"}`, "is corrupt"},
		"unknown field": {strings.Replace(string(good), "{", `{"x":1,`, 1), "is corrupt"},
		"newer version": {string(newerData), "format 2, this release reads up to 1"},
		"much newer":    {`{"format":3,"everything":"different"}`, "store of another version"},
	} {
		t.Run(name, func(t *testing.T) {
			c := dirConfig(t)
			require.NoError(t, os.MkdirAll(c.Dir, 0o700))
			path := filepath.Join(c.Dir, identityFile)
			require.NoError(t, os.WriteFile(path, []byte(tc.content), 0o600))
			for range 2 { // also the second time: nothing was changed or left locked
				_, err := openDir(c, osFiles{})
				require.ErrorIs(t, err, dcs.ErrInvalid)
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
	require.NoError(t, os.MkdirAll(filepath.Join(c.Dir, logDirName), 0o700))
	_, err := openDir(c, osFiles{})
	require.ErrorIs(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "has no identity.json but is not empty (log)")

	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	c.Dir = file
	_, err = openDir(c, osFiles{})
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.ErrorContains(t, err, file)
}

// TestCrashWhileFounding: a half-written identity file is no obstacle.
func TestCrashWhileFounding(t *testing.T) {
	c := dirConfig(t)
	require.NoError(t, os.MkdirAll(c.Dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(c.Dir, identityFile+".new"), []byte(`{"form`), 0o600))
	require.NoError(t, mustOpenDir(t, c).close())
	require.NoError(t, mustOpenDir(t, c).close())
}

// brokenFiles fails one operation.
type brokenFiles struct {
	osFiles
	read, write, list, lock error
}

func (f brokenFiles) ReadFile(path string) ([]byte, error) {
	if f.read != nil {
		return nil, f.read
	}
	return f.osFiles.ReadFile(path)
}

func (f brokenFiles) WriteFile(path string, data []byte) error {
	if f.write != nil {
		return f.write
	}
	return f.osFiles.WriteFile(path, data)
}

func (f brokenFiles) List(dir string) ([]string, error) {
	if f.list != nil {
		return nil, f.list
	}
	return f.osFiles.List(dir)
}

func (f brokenFiles) Lock(path string) (func() error, error) {
	if f.lock != nil {
		return nil, f.lock
	}
	return f.osFiles.Lock(path)
}

func TestDirFaults(t *testing.T) {
	fault := errors.New("input/output error")
	for name, files := range map[string]brokenFiles{
		"read": {read: fault}, "write": {write: fault}, "list": {list: fault}, "lock": {lock: fault},
	} {
		t.Run(name, func(t *testing.T) {
			c := dirConfig(t)
			_, err := openDir(c, files)
			require.ErrorIs(t, err, fault)
			require.ErrorIs(t, err, dcs.ErrUnavailable)
			require.ErrorContains(t, err, c.Dir)
			d := mustOpenDir(t, c)
			require.True(t, d.fresh, "nothing half done")
			require.NoError(t, d.close())
		})
	}
}

func FuzzDecodeIdentity(f *testing.F) {
	good, err := Config{ID: "a", Root: "r"}.identity().encode()
	require.NoError(f, err)
	f.Add(good)
	f.Add([]byte(`{"format":9}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		i, err := decodeIdentity(raw)
		if err != nil || i.Format > dirFormat {
			return
		}
		again, err := i.encode()
		require.NoError(t, err)
		j, err := decodeIdentity(again)
		require.NoError(t, err)
		require.Equal(t, i, j)
	})
}
