package repo_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/holdfast-dcs/holdfast"

// TestMain runs the tests in the root of the checkout, so that their paths are those
// of the repository.
func TestMain(m *testing.M) {
	if err := os.Chdir(filepath.Join("..", "..")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// incomplete skips a check whose subject is not in this checkout. Where
// everything has to be there, its absence is the finding.
func incomplete(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("HOLDFAST_REQUIRE_SERVERS") == "1" {
		t.Fatalf("%s is missing", what)
	}
	t.Skipf("%s is not in this checkout", what)
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		incomplete(t, path)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// files returns the paths of the checkout's files whose names end in suffix.
func files(t *testing.T, suffix string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && len(path) > 1 && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case !d.IsDir() && strings.HasSuffix(path, suffix):
			found = append(found, filepath.ToSlash(path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
