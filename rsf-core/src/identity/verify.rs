//! A provider's check of tokens: the signature once for each token, its time with every call.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::keys::TrustedKeys;
use super::token::{Claims, OnBehalf, TokenError, check_time, unix_seconds};

/// Good tokens that are remembered. One more makes room by forgetting those that have expired, else all.
const REMEMBERED: usize = 4096;

/// Checks the tokens that come to one provider.
pub struct TokenVerifier {
    namespace: String,
    application: String,
    trusted: ArcSwap<Trusted>,
}

/// The keys, and what they have been found to have signed: other keys know nothing of that.
struct Trusted {
    keys: TrustedKeys,
    /// Replaced as a whole, so that calls read it without a lock. Only good tokens are here: bad ones cannot push them
    /// out.
    good: ArcSwap<HashMap<Arc<str>, Good>>,
}

/// A token whose signature, namespace and audience are good.
#[derive(Clone)]
struct Good {
    application: Arc<str>,
    not_before: u64,
    expires: u64,
}

impl TokenVerifier {
    /// For the provider `application` of `namespace`.
    pub fn new(namespace: &str, application: &str, keys: TrustedKeys) -> Self {
        TokenVerifier {
            namespace: namespace.to_owned(),
            application: application.to_owned(),
            trusted: ArcSwap::from_pointee(Trusted::of(keys)),
        }
    }

    /// Trusts `keys` and no others from now on.
    pub fn replace_keys(&self, keys: TrustedKeys) {
        self.trusted.store(Arc::new(Trusted::of(keys)));
    }

    /// Whose token it is. `caller` is what the caller calls itself, where it does.
    pub fn verify(&self, token: &str, caller: Option<&str>) -> Result<Arc<str>, TokenError> {
        self.verify_at(token, caller, unix_seconds())
    }

    /// The application whose token it is, for calls in its name.
    ///
    /// # Errors
    /// Those of [`TokenVerifier::verify`]: unchecked, a provider that trusts no keys would believe any name.
    pub fn on_behalf(&self, token: &str) -> Result<OnBehalf, TokenError> {
        OnBehalf::new(&self.verify(token, None)?, token)
    }

    /// As [`TokenVerifier::verify`] at a time in Unix seconds.
    pub fn verify_at(&self, token: &str, caller: Option<&str>, now: u64) -> Result<Arc<str>, TokenError> {
        let trusted = self.trusted.load();
        let known = trusted.good.load().get(token).cloned();
        let good = match known {
            Some(good) => {
                check_time(good.not_before, good.expires, now)?;
                good
            }
            None => {
                let claims = Claims::verified(token, &trusted.keys)?;
                claims.check(now, &self.namespace, &self.application)?;
                let good = Good {
                    application: claims.application.into(),
                    not_before: claims.not_before,
                    expires: claims.expires,
                };
                trusted.remember(token, &good, now);
                good
            }
        };
        match caller {
            Some(caller) if caller != &*good.application => Err(TokenError::Subject {
                token: good.application.to_string(),
                caller: caller.to_owned(),
            }),
            _ => Ok(good.application),
        }
    }
}

impl Trusted {
    fn of(keys: TrustedKeys) -> Self {
        Trusted {
            keys,
            good: ArcSwap::default(),
        }
    }

    fn remember(&self, token: &str, good: &Good, now: u64) {
        let token: Arc<str> = token.into();
        self.good.rcu(|known| {
            let mut known = HashMap::clone(known);
            if known.len() >= REMEMBERED {
                known.retain(|_, good| check_time(good.not_before, good.expires, now).is_ok());
            }
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(token.clone(), good.clone());
            known
        });
    }
}
