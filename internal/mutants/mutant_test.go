package mutants

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCommittedMutantsApply requires that every mutant of the repository still
// fits the code.
func TestCommittedMutantsApply(t *testing.T) {
	all, err := All()
	require.NoError(t, err)
	require.NotEmpty(t, all)
	for _, m := range all {
		t.Run(m.Name, func(t *testing.T) {
			_, err := m.Apply("../..")
			require.NoError(t, err)
		})
	}
}
