package conformance

import (
	"runtime"
	"strings"
	"testing/synctest"
	"time"
)

// goroutines returns the stacks of the goroutines in the caller's bubble, by id, or of all
// those outside bubbles.
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

// notOurs identifies goroutines that no store starts.
var notOurs = []string{
	"testing.tRunner", "testing.(*T).Run", "testing.runFuzzing", "testing.(*M)",
	"conformance.watched", "runtime.goexit0", "os/signal.", "runtime.ensureSigM",
	"testing.runTests", "conformance.(*control)", "conformance.newEcho", "conformance/fault.init", "runtime/trace", "internal/poll.runtime_pollWait(0x0",
}

// leaked waits until the goroutines that did not run before have ended, and returns those
// that have not. It ignores those whose stacks match ignore. It also ignores goroutines
// that were started, directly or through others, by one that ran before and matches shared.
func leaked(before map[string]string, virtual bool, ignore, shared []string) []string {
	deadline := time.Now().Add(2 * time.Second)
	theirs := map[string]bool{} // started by a shared goroutine
	for {
		if virtual {
			synctest.Wait()
		}
		var left []string
		for id, stack := range goroutines() {
			if _, there := before[id]; there || matchesAny(stack, notOurs) || matchesAny(stack, ignore) {
				continue
			}
			by := startedBy(stack)
			if parent, there := before[by]; there && matchesAny(parent, shared) || theirs[by] {
				theirs[id] = true
				continue
			}
			left = append(left, stack)
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		// A goroutine that was asked to end cannot be waited for.
		time.Sleep(10 * time.Millisecond)
	}
}

// startedBy returns the id of the goroutine that started the one with this
// stack, or "".
func startedBy(stack string) string {
	_, last, _ := strings.Cut(stack, "\ncreated by ")
	last, _, _ = strings.Cut(last, "\n")
	_, id, _ := strings.Cut(last, " in goroutine ")
	return id
}

func matchesAny(s string, parts []string) bool {
	for _, p := range parts {
		if strings.Contains(s, p) {
			return true
		}
	}
	return false
}
