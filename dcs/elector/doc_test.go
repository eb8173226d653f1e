package elector

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// transitions returns the rows as the package documentation shows them.
func transitions() string {
	var b strings.Builder
	last := State(255)
	for _, r := range rows {
		from := ""
		if r.from != last {
			from, last = r.from.String(), r.from
		}
		fmt.Fprintf(&b, "//	%-10s -> %-10s %s\n", from, r.to, r.name)
	}
	return b.String()
}

// The transitions in the package documentation are those of the core.
func TestDocHasTheTransitions(t *testing.T) {
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	if want := transitions(); !strings.Contains(string(text), want) {
		t.Errorf("doc.go must contain:\n%s", want)
	}
}
