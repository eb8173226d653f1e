package elector

import "strings"

// maxReason bounds the text of a reason in bytes. Other members choose parts of such
// texts, and reasons go to logs, Status and answers.
const maxReason = 500

// briefError is an error whose text is cut.
type briefError struct {
	err  error
	text string
}

func (e *briefError) Error() string { return e.text }
func (e *briefError) Unwrap() error { return e.err }

// brief returns err with at most maxReason bytes of its text.
func brief(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if len(text) <= maxReason {
		return err
	}
	const more = "…"
	return &briefError{err, strings.ToValidUTF8(text[:maxReason-len(more)], "") + more}
}
