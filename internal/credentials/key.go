package credentials

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des" //nolint:gosec // G502: keys that other programs encrypted
	"crypto/pbkdf2"
	"crypto/sha1" //nolint:gosec // G505: keys that other programs encrypted
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
)

var (
	errNoPassword    = errors.New("the key is encrypted: name the file with its password in TLSFiles.KeyPasswordFile (tls_key_password_file)")
	errWrongPassword = errors.New("the key cannot be decrypted: the password is wrong, or the key is damaged")
)

// decryptKey returns a private key in PEM form without encryption.
func decryptKey(key, password []byte) ([]byte, error) {
	block, _ := pem.Decode(key)
	if block == nil {
		return key, nil // for crypto/tls to refuse
	}
	legacy := x509.IsEncryptedPEMBlock(block) //nolint:staticcheck // SA1019: keys that other programs encrypted
	if block.Type != "ENCRYPTED PRIVATE KEY" && !legacy {
		return key, nil
	}
	if len(password) == 0 {
		return nil, errNoPassword
	}
	plain := &pem.Block{Type: block.Type}
	var err error
	if legacy {
		plain.Bytes, err = x509.DecryptPEMBlock(block, password) //nolint:staticcheck // SA1019: as above
	} else {
		plain.Type = "PRIVATE KEY"
		plain.Bytes, err = decryptPKCS8(block.Bytes, password)
	}
	if errors.Is(err, x509.IncorrectPasswordError) {
		err = errWrongPassword
	}
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(plain), nil
}

// The structures of RFC 5208 and RFC 8018.
type encryptedKey struct {
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

type pbes2Params struct {
	KDF, Cipher pkix.AlgorithmIdentifier
}

type pbkdf2Params struct {
	Salt       []byte
	Iterations int
	KeyLength  int                      `asn1:"optional"`
	PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
}

var (
	oidPBES2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
)

// prfs are the hashes of PBKDF2, by object identifier. No identifier is SHA-1.
var prfs = map[string]func() hash.Hash{
	"": sha1.New, "1.2.840.113549.2.7": sha1.New, "1.2.840.113549.2.9": sha256.New,
	"1.2.840.113549.2.10": sha512.New384, "1.2.840.113549.2.11": sha512.New,
}

// blockCipher is a cipher in CBC mode.
type blockCipher struct {
	keyLength int
	make      func(key []byte) (cipher.Block, error)
}

var ciphers = map[string]blockCipher{
	"2.16.840.1.101.3.4.1.2": {16, aes.NewCipher}, "2.16.840.1.101.3.4.1.22": {24, aes.NewCipher},
	"2.16.840.1.101.3.4.1.42": {32, aes.NewCipher}, "1.2.840.113549.3.7": {24, des.NewTripleDESCipher},
}

// mostIterations bounds the time that a key takes to decrypt.
const mostIterations = 10_000_000

// decryptPKCS8 decrypts a key as openssl writes it: PBES2 with PBKDF2.
func decryptPKCS8(der, password []byte) ([]byte, error) {
	var key encryptedKey
	if _, err := asn1.Unmarshal(der, &key); err != nil {
		return nil, fmt.Errorf("the encrypted key is damaged: %w", err)
	}
	var scheme pbes2Params
	if !key.Algorithm.Algorithm.Equal(oidPBES2) || !unmarshal(key.Algorithm, &scheme) {
		return nil, unsupported("encryption", key.Algorithm.Algorithm)
	}
	var kdf pbkdf2Params
	if !scheme.KDF.Algorithm.Equal(oidPBKDF2) || !unmarshal(scheme.KDF, &kdf) {
		return nil, unsupported("key derivation", scheme.KDF.Algorithm)
	}
	prf, ok := prfs[kdf.PRF.Algorithm.String()]
	if !ok {
		return nil, unsupported("hash", kdf.PRF.Algorithm)
	}
	c, ok := ciphers[scheme.Cipher.Algorithm.String()]
	var iv []byte
	if !ok || !unmarshal(scheme.Cipher, &iv) {
		return nil, unsupported("cipher", scheme.Cipher.Algorithm)
	}
	if kdf.Iterations < 1 || kdf.Iterations > mostIterations {
		return nil, fmt.Errorf("the encrypted key has %d iterations: at most %d are read", kdf.Iterations, mostIterations)
	}
	derived, err := pbkdf2.Key(prf, string(password), kdf.Salt, kdf.Iterations, c.keyLength)
	if err != nil {
		return nil, err
	}
	b, err := c.make(derived)
	if err != nil {
		return nil, err
	}
	return decryptCBC(b, iv, key.Data)
}

// decryptCBC removes the encryption and the padding.
func decryptCBC(b cipher.Block, iv, data []byte) ([]byte, error) {
	size := b.BlockSize()
	if len(iv) != size || len(data) == 0 || len(data)%size != 0 {
		return nil, errWrongPassword
	}
	plain := make([]byte, len(data))
	cipher.NewCBCDecrypter(b, iv).CryptBlocks(plain, data)
	last := plain[len(plain)-1]
	n := int(last)
	if n == 0 || n > size || !bytes.HasSuffix(plain, bytes.Repeat([]byte{last}, n)) {
		return nil, errWrongPassword
	}
	plain = plain[:len(plain)-n]
	if _, err := x509.ParsePKCS8PrivateKey(plain); err != nil {
		return nil, errWrongPassword
	}
	return plain, nil
}

func unmarshal(a pkix.AlgorithmIdentifier, into any) bool {
	_, err := asn1.Unmarshal(a.Parameters.FullBytes, into)
	return err == nil
}

func unsupported(part string, oid asn1.ObjectIdentifier) error {
	return fmt.Errorf("the key's %s %v is not supported: encrypt it again with openssl pkcs8 -topk8 -v2 aes-256-cbc", part, oid)
}
