//! Ed25519 keys in PEM: the private one that signs tokens, and the public ones that a provider trusts.

use std::fmt;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey};
use ed25519_dalek::{Signature, Signer, VerifyingKey};

/// Keys that a provider trusts at most.
pub const MAX_KEYS: usize = 64;

const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";

/// A text that holds no usable key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidKey(String);

/// The private key that signs application tokens. Keep it where tokens are made, not in applications.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// The key of 32 random bytes. They must come from the system's generator.
    pub fn from_random(bytes: &[u8; 32]) -> Self {
        SigningKey(ed25519_dalek::SigningKey::from_bytes(bytes))
    }

    /// Reads PKCS#8 in PEM (`BEGIN PRIVATE KEY`), as [`SigningKey::to_pem`] and `openssl genpkey -algorithm ed25519` write
    /// it.
    pub fn from_pem(text: &str) -> Result<Self, InvalidKey> {
        ed25519_dalek::SigningKey::from_pkcs8_pem(text.trim())
            .map(SigningKey)
            .map_err(|error| InvalidKey(format!("no Ed25519 private key in PEM: {error}")))
    }

    /// PKCS#8 in PEM.
    pub fn to_pem(&self) -> Result<String, InvalidKey> {
        let pem = self.0.to_pkcs8_pem(LineEnding::LF);
        pem.map(|pem| pem.to_string())
            .map_err(|error| InvalidKey(format!("the key cannot be written: {error}")))
    }

    /// The public half in PEM, for [`TrustedKeys`].
    pub fn public_pem(&self) -> Result<String, InvalidKey> {
        let pem = self.0.verifying_key().to_public_key_pem(LineEnding::LF);
        pem.map_err(|error| InvalidKey(format!("the key cannot be written: {error}")))
    }

    /// The short name of the public half, sent as `kid`.
    pub fn id(&self) -> String {
        id(&self.0.verifying_key())
    }

    /// The public half.
    pub fn public_bytes(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// The Ed25519 signature of `text`. What is signed must say for which use it is: a token is text between dots, and
    /// everything else begins with a name that holds a zero byte.
    pub fn sign(&self, text: &[u8]) -> [u8; 64] {
        self.0.sign(text).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id())
    }
}

/// The public keys whose tokens a provider believes. Several, so that keys can be replaced without a gap: trust the new
/// one everywhere, sign with it, then drop the old one.
#[derive(Debug, Clone)]
pub struct TrustedKeys(Vec<(String, VerifyingKey)>);

impl TrustedKeys {
    /// Reads one or more public keys in PEM (`BEGIN PUBLIC KEY`), one after the other; text between them is a comment.
    pub fn from_pem(text: &str) -> Result<Self, InvalidKey> {
        let mut keys = Vec::new();
        let mut rest = text;
        while let Some(begin) = rest.find(BEGIN) {
            let number = keys.len() + 1;
            let block = &rest[begin..];
            let Some(end) = block.find(END) else {
                return Err(InvalidKey(format!("key {number} has no end: `{END}` is missing")));
            };
            let (block, after) = block.split_at(end + END.len());
            let key = VerifyingKey::from_public_key_pem(block)
                .map_err(|error| InvalidKey(format!("key {number} is no Ed25519 public key: {error}")))?;
            if key.is_weak() {
                return Err(InvalidKey(format!(
                    "key {number} is weak: anybody can sign for it"
                )));
            }
            keys.push((id(&key), key));
            rest = after;
        }
        match keys.len() {
            0 => Err(InvalidKey(format!("no key: `{BEGIN}` is not there"))),
            1..=MAX_KEYS => Ok(TrustedKeys(keys)),
            found => Err(InvalidKey(format!(
                "{found} keys; at most {MAX_KEYS} are allowed"
            ))),
        }
    }

    /// Their short names.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(id, _)| id.as_str())
    }

    /// Whether the key called `id` made the signature of `text`.
    pub fn verify_bytes(&self, id: &str, text: &[u8], signature: &[u8; 64]) -> bool {
        self.verify(Some(id), text, &Signature::from_bytes(signature))
    }

    /// Whether the key called `id`, or any one where the token names none, made the signature.
    pub(super) fn verify(&self, id: Option<&str>, text: &[u8], signature: &Signature) -> bool {
        let named = self.0.iter().filter(|(known, _)| id.is_none_or(|id| id == known));
        let mut keys = named.map(|(_, key)| key);
        keys.any(|key| key.verify_strict(text, signature).is_ok())
    }
}

/// The first half of the public key, in hexadecimal digits.
fn id(key: &VerifyingKey) -> String {
    key.as_bytes()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
