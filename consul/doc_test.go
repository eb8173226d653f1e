package consul

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// The rights that doc.go lists are those that the suite's own clients have.
func TestDocListsTheRights(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	for _, rule := range strings.Split(strings.TrimSpace(testcluster.ConsulRules("holdfast-pg--main")), "\n") {
		rule = strings.ReplaceAll(rule, "holdfast/", "pg/main/")
		require.Contains(t, string(doc), rule)
	}
}
