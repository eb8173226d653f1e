//go:build !linux

package main

// readProcessors reports that the times are not known.
func readProcessors() (processors, bool) { return processors{}, false }
