package zookeeper

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/credentials"
)

const schemeDigest = "digest"

// authInfo is one entry of credentials in the form that ZooKeeper takes.
type authInfo struct{ scheme, value string }

// authSource holds the credentials of new sessions.
type authSource struct {
	user     string
	password *credentials.Secret
	file     *credentials.Files[[]authInfo] // nil: none
}

// any reports whether there are credentials.
func (a authSource) any() bool { return a.user != "" || a.file != nil }

// mayChange reports whether the credentials come from files.
func (a authSource) mayChange() bool {
	return a.file != nil || a.user != "" && a.password.MayChange()
}

// current reads the credentials.
func (a authSource) current() []authInfo {
	var out []authInfo
	if a.user != "" {
		out = append(out, authInfo{schemeDigest, a.user + ":" + a.password.Current()})
	}
	if a.file != nil {
		out = append(out, a.file.Current()...)
	}
	return out
}

// names lists the users, without their passwords, for an error.
func (a authSource) names() string {
	var out []string
	for _, i := range a.current() {
		name := i.scheme
		if i.scheme == schemeDigest {
			name, _, _ = strings.Cut(i.value, ":")
		}
		out = append(out, name)
	}
	if len(out) == 0 {
		return "without a user"
	}
	return "as " + strings.Join(slices.Compact(out), ", ")
}

// checkAuth reads the credentials that the settings name.
func (c Config) checkAuth(faults *backend.Faults) authSource {
	if (c.User == "") != (c.Password == "" && c.PasswordFile == "") {
		faults.Add("User and Password or PasswordFile belong together: set both or neither")
	}
	if strings.Contains(c.User, ":") {
		faults.Add("User %q: the name of a digest user must not contain a colon", c.User)
	}
	a := authSource{user: c.User, password: faults.Secret("Password", c.Password, c.PasswordFile, c.Logger)}
	if c.AuthFile != "" {
		var err error
		a.file, err = credentials.NewFiles([]string{c.AuthFile}, credentials.Warn(c.Logger), func(contents [][]byte) ([]authInfo, error) {
			out, err := parseAuth(string(contents[0]))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.AuthFile, err)
			}
			return out, nil
		})
		if err != nil {
			faults.Add("AuthFile: %w", err)
		}
	}
	return a
}

// parseAuth parses the entries of an AuthFile. Its errors contain none of them,
// because they are secrets.
func parseAuth(text string) ([]authInfo, error) {
	var out []authInfo
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimRight(line, "\r")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		scheme, value, _ := strings.Cut(line, ":")
		if scheme == "" || strings.ContainsAny(scheme, " \t") || value == "" || scheme == schemeDigest && !strings.Contains(value, ":") {
			return nil, fmt.Errorf("line %d is not scheme:credentials, like digest:user:password", i+1)
		}
		out = append(out, authInfo{scheme, value})
	}
	if len(out) == 0 {
		return nil, errors.New("the file has no entry: write one a line, like digest:user:password")
	}
	return out, nil
}

var permissions = map[rune]int32{'r': zk.PermRead, 'w': zk.PermWrite, 'c': zk.PermCreate, 'd': zk.PermDelete, 'a': zk.PermAdmin}

// parseACL parses entries of scheme:id:permissions, separated by commas. user
// reports whether there are credentials.
func parseACL(text string, user bool) ([]zk.ACL, error) {
	switch {
	case text == "" && user:
		return zk.AuthACL(zk.PermAll), nil
	case text == "":
		return zk.WorldACL(zk.PermAll), nil
	}
	var out []zk.ACL
	for _, one := range splitACL(text) {
		scheme, rest, _ := strings.Cut(one, ":")
		i := strings.LastIndex(rest, ":")
		if scheme == "" || i < 0 {
			return nil, fmt.Errorf("entry %q is not scheme:id:permissions, like world:anyone:cdrwa", one)
		}
		acl := zk.ACL{Scheme: scheme, ID: rest[:i]}
		for _, letter := range rest[i+1:] {
			bit, ok := permissions[letter]
			if !ok {
				return nil, fmt.Errorf("entry %q: the permissions must be letters of cdrwa", one)
			}
			acl.Perms |= bit
		}
		if acl.Perms == 0 {
			return nil, fmt.Errorf("entry %q names no permission: add some of the letters cdrwa", one)
		}
		out = append(out, acl)
	}
	return out, nil
}

// splitACL splits text at its commas. A backslash before a comma or a backslash
// makes that one part of the text.
func splitACL(text string) []string {
	var out []string
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '\\' && i+1 < len(text) && (text[i+1] == ',' || text[i+1] == '\\'):
			i++
			b.WriteByte(text[i])
		case c == ',':
			out = append(out, b.String())
			b.Reset()
		default:
			b.WriteByte(c)
		}
	}
	return append(out, b.String())
}

// announcement notifies watches that a session was given newer credentials.
type announcement struct {
	mu sync.Mutex
	ch chan struct{} // nil: nobody waits
}

// next returns a channel that the next announce closes.
func (a *announcement) next() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ch == nil {
		a.ch = make(chan struct{})
	}
	return a.ch
}

func (a *announcement) announce() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ch != nil {
		close(a.ch)
		a.ch = nil
	}
}
