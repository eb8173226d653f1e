package codec

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A list of entries that cannot be there is not made: an entry takes five bytes
// at least.
func TestEntriesThatCannotBeThere(t *testing.T) {
	e := &Encoder{}
	e.Uint(101)
	e.Raw(make([]byte, 500))
	d := NewDecoder(e.B, 0)
	require.Empty(t, d.Entries())
	require.ErrorIs(t, d.End(), ErrShort)
}
