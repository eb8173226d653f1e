//go:build !linux

package disk

// Allocate implements File.
func (f osFile) Allocate(size int64) error { return f.grow(size) }

// DropCache implements File.
func (osFile) DropCache() {}
