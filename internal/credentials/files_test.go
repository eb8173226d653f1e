package credentials

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// write replaces a file.
func write(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
}

// A value follows its files. While they cannot be used the last good one stays,
// and one warning says why.
func TestFilesFollowChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	var warned []error
	warn := func(err error) { warned = append(warned, err) }
	_, err := NewSecret(path, warn)
	require.ErrorIs(t, err, os.ErrNotExist)
	write(t, path, "")
	_, err = NewSecret(path, warn)
	require.ErrorContains(t, err, "is empty")
	write(t, path, " one \r\n")
	secret, err := NewSecret(path, warn)
	require.NoError(t, err)
	require.Equal(t, " one ", secret.Current())
	require.Empty(t, warned)

	write(t, path, " two ")
	require.Equal(t, " two ", secret.Current(), "of the same length and perhaps of the same second")
	for range 3 {
		write(t, path, "")
		require.Equal(t, " two ", secret.Current(), "as while it is written")
	}
	require.Len(t, warned, 1)
	require.NoError(t, os.Remove(path))
	require.Equal(t, " two ", secret.Current())
	require.Len(t, warned, 2)
	write(t, path, "three")
	require.Equal(t, "three", secret.Current())
	require.Len(t, warned, 2)
}

// Files that belong together are taken over together.
func TestFilesThatDoNotFitYet(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, a, "1")
	write(t, b, "1")
	warned := 0
	pair, err := NewFiles([]string{a, b}, func(error) { warned++ }, func(contents [][]byte) (string, error) {
		if string(contents[0]) != string(contents[1]) {
			return "", errors.New("they differ")
		}
		return string(contents[0]), nil
	})
	require.NoError(t, err)
	write(t, a, "2")
	require.Equal(t, "1", pair.Current())
	require.Equal(t, 1, warned)
	write(t, b, "2")
	require.Equal(t, "2", pair.Current())
}
