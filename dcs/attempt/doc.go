// Package attempt makes a Commit to a foreign store exactly one of yes, no and
// cannot tell.
package attempt
