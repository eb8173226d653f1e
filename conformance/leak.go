package conformance

import (
	"runtime"
	"strings"
	"testing/synctest"
	"time"
)

// goroutines returns the stacks of the goroutines that belong to the caller's
// world, by id: those of its bubble, or all of the process outside bubbles.
func goroutines() map[string]string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	stacks := strings.Split(string(buf), "\n\n")
	mine := bubbleOf(stacks[0])
	out := make(map[string]string, len(stacks))
	for _, s := range stacks[1:] {
		if bubbleOf(s) == mine {
			id, _, _ := strings.Cut(strings.TrimPrefix(s, "goroutine "), " ")
			out[id] = s
		}
	}
	return out
}

// bubbleOf returns the bubble that a stack's header names, or "".
func bubbleOf(stack string) string {
	head, _, _ := strings.Cut(stack, "\n")
	_, bubble, ok := strings.Cut(head, "synctest bubble ")
	if !ok {
		return ""
	}
	return strings.TrimRight(bubble, "]:")
}

// notOurs are goroutines that no store starts.
var notOurs = []string{
	"testing.tRunner", "testing.(*T).Run", "testing.runFuzzing", "testing.(*M)",
	"conformance.watched", "runtime.goexit0", "os/signal.", "runtime.ensureSigM",
	"testing.runTests", "conformance.(*control)", "conformance.newEcho", "runtime/trace", "internal/poll.runtime_pollWait(0x0",
}

// leaked waits until the goroutines that were not there before have ended,
// and returns those that have not.
func leaked(before map[string]string, virtual bool, ignore []string) []string {
	deadline := time.Now().Add(2 * time.Second)
	for {
		if virtual {
			synctest.Wait()
		}
		var left []string
		for id, stack := range goroutines() {
			if _, there := before[id]; !there && !matchesAny(stack, notOurs) && !matchesAny(stack, ignore) {
				left = append(left, stack)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		// A goroutine that has been told to end offers nothing to wait for.
		time.Sleep(10 * time.Millisecond)
	}
}

func matchesAny(s string, parts []string) bool {
	for _, p := range parts {
		if strings.Contains(s, p) {
			return true
		}
	}
	return false
}
