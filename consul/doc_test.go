package consul

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// doc.go lists all permissions with which the suite runs.
func TestDocListsTheRights(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	for _, rule := range strings.Split(strings.TrimSpace(testcluster.ConsulRules("holdfast-pg--main")), "\n") {
		rule = strings.ReplaceAll(rule, "holdfast/", "pg/main/")
		require.Contains(t, string(doc), rule)
	}
}
