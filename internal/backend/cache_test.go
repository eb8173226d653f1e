package backend

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCache(t *testing.T) {
	var m Cache[int]
	_, known := m.Of("a")
	require.False(t, known)
	m.Note("a", 1)
	m.Note("b", 2)
	m.Learn(func(_ string, v int) int { return 10 * v }, map[string]int{"c": 3})
	v, known := m.Of("b")
	require.Equal(t, []any{20, true}, []any{v, known})
	v, known = m.Of("c")
	require.Equal(t, []any{3, true}, []any{v, known}, "noted after the change")
	m.Forget("a", "nothing")
	_, known = m.Of("a")
	require.False(t, known)
	for i := range maxCached {
		m.Note(fmt.Sprint("k", i), i)
	}
	require.LessOrEqual(t, len(m.all), maxCached)
	v, known = m.Of(fmt.Sprint("k", maxCached-1))
	require.Equal(t, []any{maxCached - 1, true}, []any{v, known}, "the latest is known")
	m.Clear()
	require.Empty(t, m.all)
	require.Equal(t, []string{"a", "b"}, Unique([]string{"b", "a", "b"}))
}
