// Package model searches the histories of small models of the safety rules in
// docs/protocol.md, and of the elector's in dcs/elector, for one that breaks the promise. A
// model has a switch for each rule. The
// search visits every history within the bounds that the tests set. With all rules on it
// must find no violation, and with a rule off it returns the shortest one. It checks the
// rules and not the code that implements them.
//
// The elector has three models. In leadershipModel up to three members take a lock with a
// life, renew it over messages that are lost, and stop their services by its moments, with
// processes that hang, are stopped or end. In requestModel they decide under pauses,
// switchovers and keepers, by copies that may be old. In failsafeModel a leader goes on
// without the store. Some rules of the elector have no switch that breaks a model:
//
//   - E4 is arithmetic: the ticks of leadershipModel keep it, and Timing.Validate checks it.
//   - E6 has a switch without a violation: a demotion that was asked for has its fixed fence
//     time (E3) with and without renewals.
//   - E12 bounds a shutdown. Its part that can break the promise has a switch: the service
//     stops before the session ends.
//   - F3's refusal of an older token is not modelled, because only one leader asks.
//   - F5 needs a lock that an operator ends by force in an outage, which is outside the
//     promise. Taking the lock again is E13.
package model

// step is one event and the state after it.
type step[S comparable] struct {
	text string
	to   S
}

// outcome is the result of a search.
type outcome struct {
	states    int      // the number of different states
	violation string   // empty if no state has one
	trace     []string // the shortest history that leads to the violation
}

// visit records how a search reached a state.
type visit[S comparable] struct {
	state  S
	parent int
	text   string
}

// search visits every state that next leads to from start, those with fewer steps first. It
// ends at the first state for which violation returns a text.
func search[S comparable](start S, next func(S) []step[S], violation func(S) string) outcome {
	visits := []visit[S]{{state: start, parent: -1}}
	seen := map[S]struct{}{start: {}}
	for i := 0; i < len(visits); i++ {
		state := visits[i].state
		if text := violation(state); text != "" {
			return outcome{states: len(seen), violation: text, trace: trace(visits, i)}
		}
		for _, st := range next(state) {
			if _, found := seen[st.to]; !found {
				seen[st.to] = struct{}{}
				visits = append(visits, visit[S]{state: st.to, parent: i, text: st.text})
			}
		}
	}
	return outcome{states: len(seen)}
}

// trace returns the steps from the start to visits[i].
func trace[S comparable](visits []visit[S], i int) []string {
	if visits[i].parent < 0 {
		return nil
	}
	return append(trace(visits, visits[i].parent), visits[i].text)
}

// choices collects the steps that are possible in a state.
type choices[S comparable] struct {
	state S
	steps []step[S]
}

// add adds a step that changes the state if it is possible.
func (c *choices[S]) add(possible bool, text string, change func(*S)) {
	if possible {
		to := c.state
		change(&to)
		c.steps = append(c.steps, step[S]{text, to})
	}
}
