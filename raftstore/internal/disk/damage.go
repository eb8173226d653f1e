package disk

import "fmt"

// DamageError says that a file holds something else than what was written to
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
