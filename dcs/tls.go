package dcs

// TLSFiles names the PEM files for TLS to the servers of a store, for the Config of a
// backend. Its zero value trusts the certificate authorities of the system and
// presents no client certificate.
//
// A backend reads the files when it is opened and again before each connection. If
// changed files cannot be used, such as a certificate whose key is missing, the last
// good ones stay in use and a warning is logged.
type TLSFiles struct {
	// CA holds the certificates of the authorities that sign the servers'
	// certificates. It may hold several, so that one can replace another. Empty
	// means those of the system.
	CA string
	// Cert holds the client certificate with its chain, for servers that require
	// one. Cert and Key must be set together.
	Cert string
	// Key holds the private key of Cert.
	Key string
	// KeyPasswordFile holds the password of an encrypted Key.
	KeyPasswordFile string
	// ServerName is the name that the servers' certificates must be valid for.
	// Empty means the host of each endpoint.
	ServerName string
	// InsecureSkipVerify accepts every certificate of a server. Another program on
	// the network can then impersonate the store, and read and change everything,
	// passwords and tokens included. A warning is logged at Open.
	InsecureSkipVerify bool
}
