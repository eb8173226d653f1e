package mutants

import (
	"fmt"
	"strings"
)

// Table returns the table of docs/results/mutants.md, in Markdown.
func Table() (string, error) {
	all, err := All()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("| Mutant | Rule | Defect | Must fail |\n| --- | --- | --- | --- |\n")
	for _, m := range all {
		kills := make([]string, len(m.Kills))
		for i, k := range m.Kills {
			kills[i] = "`" + k.String() + "`"
		}
		fmt.Fprintf(&b, "| [%s](../../internal/mutants/%s%s) | %s | %s | %s |\n",
			m.Name, m.Name, suffix, strings.Join(m.Rules, ", "), strings.ReplaceAll(m.Why, "|", `\|`), strings.Join(kills, "<br>"))
	}
	return b.String(), nil
}
