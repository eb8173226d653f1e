// Package repo has only tests, which check the repository itself: which packages its
// packages may import, the references of its pages, and the promises of its tools.
package repo
