package identity

import (
	"crypto"
	"crypto/ecdsa"
	"errors"
)

// Vault keeps a machine's secrets so that a copy of its disk is worth nothing in
// another computer: a TPM does. What it returns to be stored is no secret.
type Vault interface {
	// NewKey makes an ECDSA key on P-256 that never leaves the vault.
	NewKey() (handle []byte, err error)
	// Key returns the key that NewKey made, which must be there when it signs.
	Key(handle []byte) (crypto.Signer, error)
	// Seal encrypts a secret of 32 bytes, which Unseal of the same vault alone opens.
	Seal(secret []byte) (handle []byte, err error)
	Unseal(handle []byte) (secret []byte, err error)
}

// errNoVault says that a key cannot be used from here.
var errNoVault = errors.New("the key is in a TPM, and none was found")

// machineKey makes a machine's key where its Options want it.
func (o Options) machineKey() (bundle, error) {
	if !o.KeyInVault {
		k, err := newKey()
		return bundle{key: k}, err
	}
	if o.Vault == nil {
		return bundle{}, errNoVault
	}
	h, err := o.Vault.NewKey()
	return bundle{handle: h}, err
}

// signer returns the key of a machine's file, ready to sign.
func (o Options) signer(u bundle) (crypto.Signer, error) {
	switch {
	case u.key != nil:
		return u.key, nil
	case u.handle == nil:
		return nil, errors.New("the key is missing")
	case o.Vault == nil:
		return nil, errNoVault
	}
	k, err := o.Vault.Key(u.handle)
	if err != nil {
		return nil, err
	}
	_, err = keyID(k.Public())
	return k, err
}

// matches says whether a certificate's public key is the key's own.
func matches(public crypto.PublicKey, k crypto.Signer) bool {
	p, ok := public.(*ecdsa.PublicKey)
	return ok && p.Equal(k.Public())
}
