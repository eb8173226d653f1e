package conformance_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/memstore"
)

func startServer(testing.TB) *memstore.Server { return memstore.NewServer(memstore.Options{}) }

func openClient(_ testing.TB, s *memstore.Server) dcs.Backend {
	return s.Open(memstore.ClientOptions{})
}

// TestTemplate is the template of the package's documentation, with the line that makes it
// run in virtual time.
func TestTemplate(t *testing.T) {
	conformance.Run(t, conformance.Harness{
		Name: "mystore",
		New: func(tb testing.TB) conformance.Store {
			server := startServer(tb) // or one that all cases share, because each has keys of its own
			return conformance.Store{
				Open: func(tb testing.TB) dcs.Backend { return openClient(tb, server) },
			}
		},
		NotApplicable: conformance.Without("not yet", "Cluster", "Inject", "Requests", "Secure", "URL"),
		Virtual:       true,
	})
}

// TestTemplateIsDocumented compares TestTemplate with the documentation.
func TestTemplateIsDocumented(t *testing.T) {
	test := function(t, "template_test.go", "TestTemplate", "")
	test = strings.Replace(test, "\t\tVirtual:       true,\n", "", 1)
	require.Equal(t, test, function(t, "doc.go", "TestConformance", "//\t"))
}

// function returns the lines of a function below its first one, without the prefix of each.
func function(t *testing.T, file, name, prefix string) string {
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), prefix+"func "+name+"(t *testing.T) {\n")
	require.True(t, found, "%s has no %s", file, name)
	body, _, _ := strings.Cut(rest, "\n"+prefix+"}\n")
	var b strings.Builder
	for line := range strings.Lines(body) {
		b.WriteString(strings.TrimPrefix(line, prefix))
	}
	return b.String()
}
