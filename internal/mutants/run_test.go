package mutants

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// sample is a module with one function and its tests.
func sample(t *testing.T) *Runner {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module sample\n\ngo 1.26.0\n",
		"sum/sum.go": `package sum

func Add(a, b int) int {
	c := a
	c += b
	return c
}
`,
		"sum/sum_test.go": `package sum

import "testing"

func TestAdd(t *testing.T) {
	t.Run("zero", func(t *testing.T) {
		if Add(0, 0) != 0 {
			t.Error("zero")
		}
	})
	t.Run("two", func(t *testing.T) {
		if Add(1, 1) != 2 {
			t.Error("two")
		}
	})
}

func TestSkipped(t *testing.T) { t.Skip() }

func TestFails(t *testing.T) { t.Error("always") }
`,
	} {
		path := filepath.Join(root, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return &Runner{Root: root, Workers: 2, Timeout: time.Minute, Out: &bytes.Buffer{}}
}

func broken(name, test, old, replacement string) Mutant {
	return Mutant{
		Name: name, Rules: []string{"contract"}, Why: "a defect",
		Kills: []Kill{{Package: "./sum", Test: test}},
		Edits: []Edit{{File: "sum/sum.go", Old: old, New: replacement}},
	}
}

func TestRunTellsMutantsApart(t *testing.T) {
	r := sample(t)
	both := broken("both-tests", "TestAdd/two", "\tc += b\n", "\tc -= b\n")
	both.Kills = append(both.Kills, Kill{Package: "./sum", Test: "TestAdd/zero"})
	cases := []struct {
		mutant Mutant
		want   string // in the error; none for a mutant that is killed
	}{
		{broken("killed", "TestAdd/two", "\tc += b\n", "\tc -= b\n"), ""},
		{broken("undefined-name", "TestAdd", "\tc += b\n", "\tc += d\n"), "does not compile"},
		{broken("survives", "TestAdd/zero", "\tc += b\n", "\tc -= b\n"), "survives ./sum TestAdd/zero"},
		{both, "survives ./sum TestAdd/zero"},
		{broken("panics", "TestAdd/two", "\treturn c\n", "\tpanic(c)\n"), "ended for another reason"},
		{broken("stale", "TestAdd/two", "\treturn a\n", "\treturn b\n"), "found 0 times"},
	}
	var all []Mutant
	for _, c := range cases {
		all = append(all, c.mutant)
	}
	results, err := r.Run(t.Context(), all)
	require.NoError(t, err)
	require.Len(t, results, len(cases))
	for i, c := range cases {
		require.Equal(t, c.mutant.Name, results[i].Mutant.Name)
		if c.want == "" {
			require.NoError(t, results[i].Err, c.mutant.Name)
		} else {
			require.ErrorContains(t, results[i].Err, c.want, c.mutant.Name)
		}
	}
	require.Contains(t, r.Out.(*bytes.Buffer).String(), "6 of 6  ")
}

func TestRunRequiresThatTheTestsPassWithoutMutants(t *testing.T) {
	r := sample(t)
	for test, want := range map[string]string{
		"TestFails":      "exit status 1",
		"TestSkipped":    "was not run, or skipped",
		"TestAdd/absent": "was not run, or skipped",
	} {
		results, err := r.Run(t.Context(), []Mutant{broken("any", test, "\tc += b\n", "\tc -= b\n")})
		require.ErrorContains(t, err, want, test)
		require.Empty(t, results)
	}
}

func TestKilledNeedsAnOrdinaryFailureOfTheTestNamed(t *testing.T) {
	failed := "=== RUN   TestA\n    --- FAIL: TestA/b (0.00s)\n--- FAIL: TestA (0.00s)\nFAIL\n"
	require.True(t, output{text: failed, exited: 1}.killed("TestA/b"))
	require.False(t, output{text: failed, exited: 1}.killed("TestA/bc"))
	require.False(t, output{text: failed, exited: 1}.killed("TestA/"))
	require.False(t, output{text: failed, exited: 2}.killed("TestA/b"), "a panic or a time limit")
	require.False(t, output{text: "FAIL\n", exited: 1}.killed("TestA"), "os.Exit in TestMain")
}

func TestPatternSelectsWholeNames(t *testing.T) {
	require.Equal(t, `^(TestA)$/^(b\.c)$`, pattern([]Kill{{Test: "TestA/b.c"}}))
	require.Equal(t, `^(TestA|TestB)$/^(c|d)$`, pattern([]Kill{{Test: "TestA/c"}, {Test: "TestB/c"}, {Test: "TestB/d"}}))
}
