package dcs

import (
	"fmt"
	"strings"
)

// MaxKey is the greatest length of a key in bytes, without the backend's root.
const MaxKey = 512

// CheckKey returns nil if key is in the grammar of keys. Otherwise it returns an
// ErrInvalid that names the fault and the remedy. The grammar is the same for every
// backend:
//
//   - 1 to [MaxKey] bytes of printable ASCII (0x20 to 0x7e);
//   - parts separated by single slashes, none before the first or after the
//     last part;
//   - no part is "." or "..";
//   - the first part does not begin with a dot, because such names are reserved
//     for a backend's bookkeeping.
//
// Every other byte is stored as it is, including percent signs and spaces. Store
// checks keys before any I/O, and a Backend may rely on it.
func CheckKey(key string) error {
	return asInvalid("CheckKey", key, checkKey(key))
}

// CheckPrefix is [CheckKey] for a prefix, which names a key and everything
// below it. The empty prefix is the whole tree.
func CheckPrefix(prefix string) error {
	return asInvalid("CheckPrefix", prefix, checkPrefix(prefix))
}

// memberPart is the part before the last one of every member key.
const memberPart = "members"

// CheckMemberKey returns an ErrInvalid unless key can be published, which means
// that it is in the grammar of [CheckKey] and its last part but one is
// "members", as in "members/a" or "pg/main/members/a". Only this name
// distinguishes member keys from lock keys, so that neither is ever taken for the
// other (P19).
func CheckMemberKey(key string) error {
	err := checkKey(key)
	if err == nil && !isMemberKey(key) {
		err = fmt.Errorf("not a member key: the last part but one must be %q, as in %q", memberPart, memberPart+"/a")
	}
	return asInvalid("CheckMemberKey", key, err)
}

// CheckLockKey returns an ErrInvalid unless key can be acquired, which means that
// it is in the grammar of [CheckKey] and is no member key (see [CheckMemberKey]).
func CheckLockKey(key string) error {
	err := checkKey(key)
	if err == nil && isMemberKey(key) {
		err = fmt.Errorf("a member key cannot be a lock: use a name whose last part but one is not %q", memberPart)
	}
	return asInvalid("CheckLockKey", key, err)
}

// asInvalid returns err as an ErrInvalid of op on key, or nil.
func asInvalid(op, key string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Key: key, Kind: ErrInvalid, Err: err}
}

// isMemberKey reports whether key, which is in the grammar, is a member key.
func isMemberKey(key string) bool {
	parts := strings.Split(key, "/")
	return len(parts) > 1 && parts[len(parts)-2] == memberPart
}

// Under reports whether key is prefix itself or lies below it. Everything lies
// under the empty prefix.
func Under(prefix, key string) bool {
	return prefix == "" || key == prefix || below(prefix, key)
}

// below reports whether key lies strictly below parent, which is not empty.
func below(parent, key string) bool {
	return len(key) > len(parent) && key[len(parent)] == '/' && key[:len(parent)] == parent
}

func checkPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	return checkKey(prefix)
}

func checkKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("the key is empty: a key has 1 to %d bytes", MaxKey)
	case len(key) > MaxKey:
		return fmt.Errorf("the key is %d bytes long: use at most %d", len(key), MaxKey)
	}
	start, part := 0, 1
	for i := 0; i <= len(key); i++ {
		if i < len(key) && key[i] != '/' {
			if c := key[i]; c < 0x20 || c > 0x7e {
				return fmt.Errorf("byte %d is 0x%02x: use printable ASCII only (0x20 to 0x7e)", i, c)
			}
			continue
		}
		if err := checkPart(key[start:i], part, i < len(key)); err != nil {
			return err
		}
		start, part = i+1, part+1
	}
	return nil
}

// checkPart checks part number n, counted from 1. more reports that a slash follows
// it.
func checkPart(s string, n int, more bool) error {
	switch {
	case s == "" && n == 1:
		return fmt.Errorf("the key begins with a slash: leave it out, keys are relative to the backend's root")
	case s == "" && !more:
		return fmt.Errorf("the key ends with a slash: leave it out")
	case s == "":
		return fmt.Errorf("part %d is empty: use single slashes between parts", n)
	case s == "." || s == "..":
		return fmt.Errorf("part %d is %q: \".\" and \"..\" have no meaning in a key, use another name", n, s)
	case n == 1 && s[0] == '.':
		return fmt.Errorf("the first part %q begins with a dot: such names are reserved for bookkeeping, use another one", clip(s))
	}
	return nil
}

// clip shortens a caller's argument for use in a message.
func clip(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
