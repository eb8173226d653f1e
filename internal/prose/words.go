package main

import (
	"regexp"
	"slices"
)

// word is an expression that the text of this project does not use.
type word struct {
	name    string
	pattern *regexp.Regexp
	instead string
}

// words lists them. The numbers are those of the rules in CONTRIBUTING.md.
var words = []word{
	{"who", expr(`who|whoever|whom`), "name the actor: the caller, the session, the server (1)"},
	{"somebody", expr(`somebody|someone|anybody|everybody`), "name the actor: the caller, the session, the server (1)"},
	{"tell", expr(`tells?|told|telling`), "report, return, notify, log, detect or distinguish (2)"},
	{"what", expr(`what|whatever`), "name the thing: the outcome, the error, the entries (3)"},
	{"can not", expr(`can not`), "cannot (4)"},
	{"anew", expr(`anew`), "again, or new (5)"},
	{"mend", expr(`mend(s|ed|ing)?`), "repair, correct or fix (5)"},
	{"elsewhere", expr(`elsewhere`), "name the place: another endpoint, another server (5)"},
	{"beside", expr(`beside|besides`), "in addition to, next to, or at the same time as (5)"},
	{"errand", expr(`errands?`), "background work (5)"},
	{"strike", expr(`strikes?|struck`), "failure, or inject a fault (5)"},
	{"volley", expr(`volleys?`), "copies of a request (5)"},
	{"tooth", expr(`tooth|teeth`), "mutant (5)"},
	{"tenure", expr(`tenures?`), "lease state (5)"},
	{"tap", expr(`taps?|tapped`), "fault injector (5)"},
	{"tie", expr(`ties?|tied`), "bind (5)"},
	{"bell", expr(`bells?|rings?|rang|alarms?`), "timer; only etcd's NOSPACE is an alarm (5)"},
	{"ill", expr(`ill`), "unhealthy (5)"},
}

// measures are counted in 1,000 words and not forbidden.
var measures = []word{
	named("what"),
	named("tell"),
	named("who"),
	{"colons", regexp.MustCompile(`:(\s|$)`), ""},
	{"must", expr(`must|should`), ""},
}

// named returns a word of the list.
func named(name string) word {
	return words[slices.IndexFunc(words, func(w word) bool { return w.name == name })]
}

func expr(alternatives string) *regexp.Regexp {
	return regexp.MustCompile(`(?i)\b(` + alternatives + `)\b`)
}
