package mutants

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Apply returns the changed files of the module at root, by their paths below
// root. It fails unless the old lines of every replacement are found exactly
// once.
func (m Mutant) Apply(root string) (map[string]string, error) {
	changed := make(map[string]string)
	for _, e := range m.Edits {
		source, ok := changed[e.File]
		if !ok {
			b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(e.File))) //nolint:gosec // G304: a file of this module
			if err != nil {
				return nil, fmt.Errorf("mutant %s: %w", m.Name, err)
			}
			source = string(b)
		}
		found := lines(source, e.Old)
		if len(found) != 1 {
			return nil, fmt.Errorf("mutant %s: the old lines are found %d times in %s, want once:\n%s", m.Name, len(found), e.File, e.Old)
		}
		changed[e.File] = source[:found[0]] + e.New + source[found[0]+len(e.Old):]
	}
	return changed, nil
}

// lines returns the offsets in source at which the lines begin that are old.
func lines(source, old string) (found []int) {
	for at := 0; ; {
		if strings.HasPrefix(source[at:], old) {
			found = append(found, at)
		}
		next := strings.IndexByte(source[at:], '\n')
		if next < 0 {
			return found
		}
		at += next + 1
	}
}
