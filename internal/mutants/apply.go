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
			b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(e.File))) //nolint:gosec // a file of this module
			if err != nil {
				return nil, fmt.Errorf("mutant %s: %w", m.Name, err)
			}
			source = string(b)
		}
		// Whole lines: the match begins after a line's end.
		source, old := "\n"+source, "\n"+e.Old
		if n := strings.Count(source, old); n != 1 {
			return nil, fmt.Errorf("mutant %s: the old lines are found %d times in %s, want once:\n%s", m.Name, n, e.File, e.Old)
		}
		changed[e.File] = strings.Replace(source, old, "\n"+e.New, 1)[1:]
	}
	return changed, nil
}
