// Package credentials reads passwords, tokens, authorities and certificates from
// files, and reads them again when they change.
package credentials

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
)

// Files holds a value that is made of the contents of files.
type Files[T any] struct {
	paths []string
	build func(contents [][]byte) (T, error)
	warn  func(error)

	mu    sync.Mutex
	seen  []content // at the last look
	value T
}

// content is the content of one file, or the reason why there is none.
type content struct {
	data []byte
	err  error
}

func (c content) equal(d content) bool {
	if c.err != nil && d.err != nil {
		return c.err.Error() == d.err.Error()
	}
	return c.err == nil && d.err == nil && bytes.Equal(c.data, d.data)
}

// NewFiles reads the files and returns their value, or why it cannot be made.
// build must not retain or change the contents. Its errors name the file, and no
// secret. warn is called when changed files cannot be used; see [Warn].
func NewFiles[T any](paths []string, warn func(error), build func(contents [][]byte) (T, error)) (*Files[T], error) {
	f := &Files[T]{paths: paths, build: build, warn: warn}
	f.seen = f.read()
	var err error
	f.value, err = f.made()
	return f, err
}

// Current returns the value of the files as they are now. If they cannot be
// used, it returns the last good value.
func (f *Files[T]) Current() T {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.read()
	if slices.EqualFunc(now, f.seen, content.equal) {
		return f.value
	}
	f.seen = now
	value, err := f.made()
	if err != nil {
		f.warn(err)
		return f.value
	}
	f.value = value
	return value
}

func (f *Files[T]) read() []content {
	out := make([]content, len(f.paths))
	for i, path := range f.paths {
		out[i].data, out[i].err = os.ReadFile(path) //nolint:gosec // G304: the user's own file
	}
	return out
}

// made returns the value of the contents that were seen.
func (f *Files[T]) made() (T, error) {
	contents := make([][]byte, len(f.seen))
	for i, c := range f.seen {
		if c.err != nil {
			var zero T
			return zero, c.err
		}
		contents[i] = c.data
	}
	return f.build(contents)
}

// Secret is a password or a token, from a file that may change or fixed.
type Secret struct {
	file  *Files[string]
	fixed string
}

// FixedSecret returns a Secret that never changes.
func FixedSecret(value string) *Secret { return &Secret{fixed: value} }

// Current returns the secret as it is now.
func (s *Secret) Current() string {
	if s.file == nil {
		return s.fixed
	}
	return s.file.Current()
}

// MayChange reports whether the secret comes from a file.
func (s *Secret) MayChange() bool { return s.file != nil }

// secretIn returns the secret in the content of a file, without the ends of lines.
func secretIn(content []byte) string { return strings.TrimRight(string(content), "\r\n") }

// NewSecret reads a file that holds a password or a token. The ends of its lines
// are no part of it.
func NewSecret(path string, warn func(error)) (*Secret, error) {
	f, err := NewFiles([]string{path}, warn, func(contents [][]byte) (string, error) {
		secret := secretIn(contents[0])
		if secret == "" {
			return "", fmt.Errorf("%s is empty", path)
		}
		return secret, nil
	})
	if err != nil {
		return nil, err
	}
	return &Secret{file: f}, nil
}
