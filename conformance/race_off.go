//go:build !race

package conformance

// raceDetector says that everything costs five to ten times as much.
const raceDetector = false
