//go:build !linux

package listener

func end(uintptr) {}
