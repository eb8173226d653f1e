package mutants

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

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

// TestEveryRuleHasAMutant requires a mutant for each rule of docs/protocol.md
// except P23, which nothing implements yet.
func TestEveryRuleHasAMutant(t *testing.T) {
	all, err := All()
	require.NoError(t, err)
	broken := make(map[string]bool)
	for _, m := range all {
		for _, rule := range m.Rules {
			broken[rule] = true
		}
	}
	page, err := os.ReadFile("../../docs/protocol.md")
	require.NoError(t, err)
	rules := regexp.MustCompile(`(?m)^### (P\d+):`).FindAllStringSubmatch(string(page), -1)
	require.NotEmpty(t, rules)
	for _, rule := range rules {
		require.Equal(t, rule[1] != "P23", broken[rule[1]], rule[1])
	}
}

const example = `rule: P11, P16
why: One sentence.
kill: ./memstore TestConformance/Hold/StaleRelease
kill: ./memstore TestWalk -walk.rounds=400
-- old dcs/a.go --
	one
	two
-- new --
	three
-- old dcs/b.go --
gone
-- new --
`

func TestParse(t *testing.T) {
	m, err := Parse("p11-example", example)
	require.NoError(t, err)
	require.Equal(t, Mutant{
		Name:  "p11-example",
		Rules: []string{"P11", "P16"},
		Why:   "One sentence.",
		Kills: []Kill{
			{Package: "./memstore", Test: "TestConformance/Hold/StaleRelease", Flags: []string{}},
			{Package: "./memstore", Test: "TestWalk", Flags: []string{"-walk.rounds=400"}},
		},
		Edits: []Edit{
			{File: "dcs/a.go", Old: "\tone\n\ttwo\n", New: "\tthree\n"},
			{File: "dcs/b.go", Old: "gone\n"},
		},
	}, m)
}

func TestParseRefuses(t *testing.T) {
	for name, c := range map[string]struct{ old, replacement, want string }{
		"an unknown key":     {"why:", "because:", `line 2: "because: One sentence." is no header line`},
		"a rule given twice": {"why: One sentence.", "rule: P1", "no header line"},
		"a rule without a P": {"P11, P16", "P11, ownership", `rule "ownership"`},
		"a test without ./":  {"./memstore TestW", "memstore TestW", "no header line"},
		"no replacement":     {example[strings.Index(example, "-- old"):], "", "are required"},
		"no reason":          {"why: One sentence.\n", "", "are required"},
		"no change":          {"\tthree\n", "\tone\n\ttwo\n", "a replacement in dcs/a.go changes nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, 1, strings.Count(example, c.old))
			_, err := Parse("p11-example", strings.Replace(example, c.old, c.replacement, 1))
			require.ErrorContains(t, err, c.want)
		})
	}
	_, err := Parse("P11 example", example)
	require.ErrorContains(t, err, "the name is not of the form")
	_, err = load(fstest.MapFS{"p1.txtar": {Data: []byte("rule: P1\n")}})
	require.ErrorContains(t, err, "mutant p1")
}

func TestApply(t *testing.T) {
	root := t.TempDir()
	source := "\tif a {\n\t\treturn\n\t}\n\treturn\nreturn\nreturn\n"
	require.NoError(t, os.WriteFile(filepath.Join(root, "a.go"), []byte(source), 0o600))
	for name, c := range map[string]struct {
		edits []Edit
		want  string // the changed file, or in the error
	}{
		"lines are whole":        {[]Edit{{"a.go", "\treturn\n", "\tbreak\n"}}, "\tif a {\n\t\treturn\n\t}\n\tbreak\nreturn\nreturn\n"},
		"the first line":         {[]Edit{{"a.go", "\tif a {\n", "\tif b {\n"}}, "\tif b {\n\t\treturn\n\t}\n\treturn\nreturn\nreturn\n"},
		"to nothing":             {[]Edit{{"a.go", "\t\treturn\n\t}\n", ""}}, "\tif a {\n\treturn\nreturn\nreturn\n"},
		"one after the other":    {[]Edit{{"a.go", "\treturn\n", "\tx\n"}, {"a.go", "\tx\n", "\ty\n"}}, "\tif a {\n\t\treturn\n\t}\n\ty\nreturn\nreturn\n"},
		"twice is refused":       {[]Edit{{"a.go", "return\n", "x\n"}}, "found 2 times in a.go"},
		"never is refused":       {[]Edit{{"a.go", "continue\n", "x\n"}}, "found 0 times in a.go"},
		"no such file":           {[]Edit{{"b.go", "return\n", "x\n"}}, "b.go"},
		"the second one is lost": {[]Edit{{"a.go", "\treturn\n", "\tx\n"}, {"a.go", "\treturn\n", "\ty\n"}}, "found 0 times"},
	} {
		t.Run(name, func(t *testing.T) {
			changed, err := Mutant{Name: "m", Edits: c.edits}.Apply(root)
			if strings.Contains(c.want, "\n") {
				require.NoError(t, err)
				require.Equal(t, map[string]string{"a.go": c.want}, changed)
			} else {
				require.ErrorContains(t, err, c.want)
			}
		})
	}
}

func TestTable(t *testing.T) {
	table, err := Table()
	require.NoError(t, err)
	require.Contains(t, table, "| [p18-release-by-name](../../internal/mutants/p18-release-by-name.txtar) | P18 | ")
}
