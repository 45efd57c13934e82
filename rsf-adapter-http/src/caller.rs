//! Who calls: a bearer token of HTTP's names the application that a call is made for.

use std::sync::Arc;

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use rsf_core::identity::{OnBehalf, TokenVerifier};
use rsf_core::outcome::Reason;
use rsf_core::status::Code;

use crate::failure::Failure;

/// What the adapter does with callers' tokens.
#[derive(Default)]
pub(crate) struct Callers {
    /// `None` where the adapter trusts no keys: `Authorization` is then the application's own business.
    pub(crate) verifier: Option<Arc<TokenVerifier>>,
    /// Whether a call without a token is refused.
    pub(crate) required: bool,
}

impl Callers {
    /// The application that a request is made for; `None` for the adapter itself. Checked here, because a provider that
    /// trusts no keys would believe any name; and by the provider again, which gets the token.
    pub(crate) fn read(&self, headers: &HeaderMap) -> Result<Option<OnBehalf>, Failure> {
        let checked = self
            .verifier
            .as_ref()
            .and_then(|verifier| Some(verifier.on_behalf(bearer(headers)?)));
        match checked {
            Some(checked) => checked
                .map(Some)
                .map_err(|error| unauthenticated(error.to_string(), "Bearer error=\"invalid_token\"")),
            None if self.required => {
                let problem = "this adapter serves callers that say who they are: send `Authorization: Bearer <token>` with \
                               an application's token (`rsf token sign`)";
                Err(unauthenticated(problem.to_owned(), "Bearer"))
            }
            None => Ok(None),
        }
    }
}

/// The token of `Authorization: Bearer …`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn unauthenticated(problem: String, challenge: &'static str) -> Failure {
    Failure::new(Code::Unauthenticated, problem)
        .reason(Reason::Unauthenticated)
        .header(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}
