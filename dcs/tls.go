package dcs

// TLSFiles names the PEM files of TLS to the servers of a store, for the Config
// of a backend. Its zero value trusts the authorities of the system and has no
// certificate of our own.
//
// A backend reads the files when it is opened and again before each connection.
// If changed files cannot be used, such as a certificate whose key is not there
// yet, the last good ones stay in use and a warning is logged.
type TLSFiles struct {
	// CA holds the certificates of the authorities that sign the servers'
	// certificates. Several may be there at the same time, so that one can
	// replace another. Empty means those of the system.
	CA string
	// Cert holds our certificate, chain included, for servers that demand one.
	// Cert and Key are set together.
	Cert string
	// Key holds the private key of Cert.
	Key string
	// KeyPasswordFile holds the password of an encrypted Key.
	KeyPasswordFile string
	// ServerName is the name that the servers' certificates must be valid for.
	// Empty means the host of each endpoint.
	ServerName string
	// InsecureSkipVerify accepts every certificate of a server. Another program
	// on the network can then pass for the store, and read and change
	// everything, passwords and tokens included. A warning is logged at Open.
	InsecureSkipVerify bool
}
