//go:build !race

package conformance

// raceDetector reports whether the race detector is on, with which all operations take five
// to ten times as long.
const raceDetector = false
