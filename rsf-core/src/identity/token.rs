//! Application tokens: JSON Web Tokens (RFC 7519) signed with Ed25519 (`EdDSA`, RFC 8037), and nothing else.
//!
//! The algorithm is fixed: what a token's header says can only lead to its refusal, never to another check.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::Signature;
use http::HeaderValue;
use serde::{Deserialize, Serialize};

use super::keys::{SigningKey, TrustedKeys};

/// Bytes of a token at most.
pub const MAX_TOKEN: usize = 4096;
/// Seconds by which the clocks of two machines may differ.
pub const CLOCK_SKEW: u64 = 30;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The application whose token it is.
    #[serde(rename = "sub")]
    pub application: String,
    /// The namespace that it is for.
    pub namespace: String,
    /// Unix seconds from which on it is valid.
    #[serde(rename = "nbf", default)]
    pub not_before: u64,
    /// Unix seconds after which it is not.
    #[serde(rename = "exp")]
    pub expires: u64,
    /// The providing applications that it is for; empty: all of them.
    #[serde(
        rename = "aud",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "audience"
    )]
    pub audience: Vec<String>,
}

/// What is wrong with a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no token.
    #[error("the token cannot be read: {0}")]
    Malformed(&'static str),
    /// Another algorithm, `none` among them.
    #[error("the token says algorithm `{0}`; only `EdDSA` (Ed25519) is accepted")]
    Algorithm(String),
    /// No trusted key made the signature.
    #[error("the token's signature was made by none of the trusted keys ({0})")]
    Signature(String),
    /// Its time has not come.
    #[error(
        "the token is not valid before Unix second {not_before}, now is {now}; compare the machines' clocks"
    )]
    NotYet {
        /// From when on it is valid.
        not_before: u64,
        /// The time of the check.
        now: u64,
    },
    /// Its time is over.
    #[error("the token expired at Unix second {expires}, now is {now}; have a new one signed")]
    Expired {
        /// Until when it was valid.
        expires: u64,
        /// The time of the check.
        now: u64,
    },
    /// It is for another namespace.
    #[error("the token is for namespace `{found}`, this is `{here}`")]
    Namespace {
        /// The token's.
        found: String,
        /// The provider's.
        here: String,
    },
    /// It is for other providers.
    #[error("the token is for calls to {found}, this is application `{here}`")]
    Audience {
        /// Whom the token names.
        found: String,
        /// The provider.
        here: String,
    },
    /// The caller names itself otherwise than its token does.
    #[error("the token is application `{token}`'s, the caller says that it is `{caller}`")]
    Subject {
        /// Whose the token is.
        token: String,
        /// What `rsf-caller` says.
        caller: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    /// Extensions that a reader must understand; this one knows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crit: Option<serde_json::Value>,
}

impl Claims {
    /// The signed token.
    pub fn sign(&self, key: &SigningKey) -> Result<String, TokenError> {
        let header = Header {
            alg: "EdDSA".to_owned(),
            kid: Some(key.id()),
            crit: None,
        };
        let part = |json: serde_json::Result<Vec<u8>>| {
            json.map(|json| URL_SAFE_NO_PAD.encode(json))
                .map_err(|_| TokenError::Malformed("its claims cannot be written"))
        };
        let header = part(serde_json::to_vec(&header))?;
        let mut token = format!("{header}.{}", part(serde_json::to_vec(self))?);
        let signature = key.sign(token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        match token.len() {
            ..=MAX_TOKEN => Ok(token),
            _ => Err(TokenError::Malformed("it is longer than 4096 bytes")),
        }
    }

    /// Reads a token that one of `keys` signed. Its time, namespace and audience are not judged; see [`Claims::check`].
    pub fn verified(token: &str, keys: &TrustedKeys) -> Result<Claims, TokenError> {
        let parts = Parts::of(token)?;
        let signature: [u8; 64] = decoded(parts.signature)?
            .try_into()
            .map_err(|_| TokenError::Malformed("its signature has not 64 bytes"))?;
        let signature = Signature::from_bytes(&signature);
        if !keys.verify(parts.header.kid.as_deref(), parts.signed.as_bytes(), &signature) {
            let ids: Vec<_> = keys.ids().collect();
            return Err(TokenError::Signature(ids.join(", ")));
        }
        parts.claims()
    }

    /// Reads a token without any proof that it is genuine: for messages about one's own token, never to let somebody in.
    pub fn unverified(token: &str) -> Result<Claims, TokenError> {
        Parts::of(token)?.claims()
    }

    /// Judges time, namespace and audience for a provider: `now` in Unix seconds.
    pub fn check(&self, now: u64, namespace: &str, provider: &str) -> Result<(), TokenError> {
        self.check_time(now)?;
        if self.namespace != namespace {
            return Err(TokenError::Namespace {
                found: self.namespace.clone(),
                here: namespace.to_owned(),
            });
        }
        if !self.audience.is_empty() && !self.audience.iter().any(|name| name == provider) {
            return Err(TokenError::Audience {
                found: self.audience.join(", "),
                here: provider.to_owned(),
            });
        }
        Ok(())
    }

    /// Judges the time alone.
    pub fn check_time(&self, now: u64) -> Result<(), TokenError> {
        check_time(self.not_before, self.expires, now)
    }
}

/// Whether `now` is within a token's time, give or take [`CLOCK_SKEW`].
pub(super) fn check_time(not_before: u64, expires: u64, now: u64) -> Result<(), TokenError> {
    if now.saturating_add(CLOCK_SKEW) < not_before {
        return Err(TokenError::NotYet { not_before, now });
    }
    if now > expires.saturating_add(CLOCK_SKEW) {
        return Err(TokenError::Expired { expires, now });
    }
    Ok(())
}

/// Now, in Unix seconds.
pub fn unix_seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

/// A token's parts; its header asks for nothing that is not accepted.
struct Parts<'a> {
    header: Header,
    /// Header and claims, as they were signed.
    signed: &'a str,
    claims: &'a str,
    signature: &'a str,
}

impl<'a> Parts<'a> {
    fn of(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed("it is longer than 4096 bytes"));
        }
        let shape = TokenError::Malformed("it has not three parts between dots");
        let (signed, signature) = token.rsplit_once('.').ok_or(shape.clone())?;
        let (header, claims) = signed.split_once('.').ok_or(shape.clone())?;
        if claims.contains('.') {
            return Err(shape);
        }
        let header: Header = serde_json::from_slice(&decoded(header)?)
            .map_err(|_| TokenError::Malformed("its header is no JSON object with `alg`"))?;
        if header.alg != "EdDSA" {
            let mut named = header.alg;
            named.truncate(named.floor_char_boundary(20));
            return Err(TokenError::Algorithm(named));
        }
        if header.crit.is_some() {
            return Err(TokenError::Malformed("its header asks for extensions (`crit`)"));
        }
        Ok(Parts {
            header,
            signed,
            claims,
            signature,
        })
    }

    fn claims(&self) -> Result<Claims, TokenError> {
        let problem = "its claims are no JSON object with `sub`, `namespace` and `exp`";
        serde_json::from_slice(&decoded(self.claims)?).map_err(|_| TokenError::Malformed(problem))
    }
}

fn decoded(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| TokenError::Malformed("a part is no base64url without padding"))
}

/// RFC 7519 lets `aud` be one name or a list of them.
fn audience<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(value)? {
        Audience::One(name) => vec![name],
        Audience::Many(names) => names,
    })
}

/// The token that a consumer sends with its calls. Clones share it, so that it can be replaced while calls run; the
/// default one is none.
#[derive(Clone, Default)]
pub struct ApplicationToken(Option<Arc<ArcSwap<HeaderValue>>>);

impl ApplicationToken {
    /// The token `text`.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let value = read(text)?;
        Ok(ApplicationToken(Some(Arc::new(ArcSwap::from_pointee(value)))))
    }

    /// Sends `text` from now on. Does nothing where the application began without a token.
    pub fn replace(&self, text: &str) -> Result<(), TokenError> {
        let value = read(text)?;
        if let Some(token) = &self.0 {
            token.store(Arc::new(value));
        }
        Ok(())
    }

    /// Whether the application has one.
    #[inline(always)]
    pub(crate) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn header(&self) -> Option<HeaderValue> {
        Some(Self::present(self.0.as_ref()?))
    }

    fn present(token: &ArcSwap<HeaderValue>) -> HeaderValue {
        (**token.load()).clone()
    }
}

impl fmt::Debug for ApplicationToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "a token" } else { "no token" })
    }
}

/// An application that a call is made for by another one, and its token; made by
/// [`TokenVerifier::on_behalf`](super::TokenVerifier::on_behalf).
#[derive(Clone)]
pub struct OnBehalf {
    pub(crate) application: HeaderValue,
    pub(crate) token: HeaderValue,
}

impl OnBehalf {
    /// `application`, whose checked token `text` is.
    pub(super) fn new(application: &str, text: &str) -> Result<Self, TokenError> {
        let application = HeaderValue::from_str(application)
            .map_err(|_| TokenError::Malformed("`sub` is no visible ASCII"))?;
        Ok(OnBehalf {
            application,
            token: header(text)?,
        })
    }
}

impl fmt::Debug for OnBehalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnBehalf").field(&self.application).finish()
    }
}

/// A token whose shape at least is right: that of a configuration.
fn read(text: &str) -> Result<HeaderValue, TokenError> {
    Claims::unverified(text)?;
    header(text)
}

fn header(text: &str) -> Result<HeaderValue, TokenError> {
    let mut value =
        HeaderValue::from_str(text).map_err(|_| TokenError::Malformed("it is no visible ASCII"))?;
    // It must enter no header table: there others of the connection could guess at it.
    value.set_sensitive(true);
    Ok(value)
}
