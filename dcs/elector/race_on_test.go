//go:build race

package elector

const raceDetector = true
