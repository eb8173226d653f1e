package mutants

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const bodies = `package p

import "fmt"

type t struct{ a int }

func (x *t) add(n int) { x.a += n } // a comment

func sum(a, b int) int {
	return a + b // another
}

func loop() {
again:
	for {
		continue again
	}
}
`

func TestBodiesAreCombined(t *testing.T) {
	s, err := parse(bodies)
	require.NoError(t, err)
	require.Equal(t, `package p

import "fmt"

type t struct{ a int }

func (x *t) add(n int) {
if mutantUnderTest == "one" { x.a-- 
return
}
 x.a += n } // a comment

func sum(a, b int) int {
if mutantUnderTest == "one" {
	return a // less

panic("a mutant has no return")
}

if mutantUnderTest == "two" { return b 
panic("a mutant has no return")
}

	return a + b // another
}

func loop() {
again:
	for {
		continue again
	}
}
`, s.with([]change{
		{"one", "p.go", 3, "\n\treturn a // less\n"},
		{"one", "p.go", 2, " x.a-- "},
		{"two", "p.go", 3, " return b "},
	}))
}

func TestOnlyBodiesAreCombined(t *testing.T) {
	cases := map[string]struct {
		decl     int
		old, new string
		combined bool
	}{
		"body":   {3, "a + b", "a", true},
		"result": {3, "b int) int", "b int) (n int)", false},
		"type":   {1, "a int", "a, b int", false},
		"labels": {4, "continue again", "break again", false},
	}
	old, err := parse(bodies)
	require.NoError(t, err)
	for name, c := range cases {
		text := strings.Replace(bodies, c.old, c.new, 1)
		require.NotEqual(t, bodies, text, name)
		new, err := parse(text)
		require.NoError(t, err, name)
		_, same, ok := bodyOf(old, new, c.decl)
		require.Equal(t, c.combined, ok, name)
		require.False(t, same, name)
	}
}

// Two mutants of one function are distinguished in one build, and one that does not
// compile alone is not hidden by the others.
func TestCombinedMutantsAreDistinguished(t *testing.T) {
	r := sample(t)
	results, err := r.Run(t.Context(), []Mutant{
		broken("less", "TestAdd/two", "\tc += b\n", "\tc -= b\n"),
		broken("harmless", "TestAdd/two", "\tc += b\n", "\tc = a + b\n"),
		broken("no-return", "TestAdd/two", "\treturn c\n", "\t_ = c\n"),
	})
	require.NoError(t, err)
	require.Len(t, r.combined["./sum"].mutants, 3)
	require.NoError(t, results[0].Err)
	require.ErrorContains(t, results[1].Err, "survives")
	require.ErrorContains(t, results[2].Err, "ended for another reason")
}
