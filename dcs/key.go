package dcs

// CheckKey returns ErrInvalid unless key is in the grammar: printable ASCII,
// parts separated by "/".
func CheckKey(key string) error { return errStub }

// CheckPrefix is CheckKey for a prefix; "" is the whole tree.
func CheckPrefix(prefix string) error { return errStub }

// Under reports whether key is prefix itself or lies below it.
func Under(prefix, key string) bool {
	return prefix == "" || key == prefix || (len(key) > len(prefix) && key[len(prefix)] == '/' && key[:len(prefix)] == prefix)
}

// Check returns every fault of t's shape, as one ErrInvalid.
func (t Txn) Check() error { return errStub }
