package disk

import "fmt"

// A DamageError reports that the content of a file differs from the writes to
// it, or lacks a part of it. It is permanent: to read again shows the same.
type DamageError struct {
	File   string
	Offset int64
	What   string
}

// Error implements error.
func (e *DamageError) Error() string {
	return fmt.Sprintf("%s is damaged at offset %d: %s", e.File, e.Offset, e.What)
}
