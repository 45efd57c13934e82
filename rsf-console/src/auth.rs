//! Who may ask: the bearer token, browser sessions, and the guards against forged and rebound requests.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use http::{HeaderMap, header};
use parking_lot::Mutex;
use subtle::ConstantTimeEq;
use tokio::time::Instant;

/// Writes that come with a session cookie must carry this header, which no foreign page can set.
pub(crate) const CSRF_HEADER: &str = "x-rsf-console";
/// How long a session lives.
const SESSION_LIFE: Duration = Duration::from_secs(12 * 3600);
/// Sessions at once; the oldest gives way.
const MAX_SESSIONS: usize = 1_000;
/// Bytes that a token must have.
const MIN_TOKEN: usize = 16;

/// The secret that opens the API. There is no default one.
#[derive(Clone)]
pub struct Token(String);

/// A text that is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the console's token must have at least {MIN_TOKEN} visible ASCII characters; make one with `openssl rand -hex 32`"
)]
pub struct WeakToken;

impl Token {
    /// Takes a token of at least 16 visible ASCII characters.
    pub fn new(text: &str) -> Result<Self, WeakToken> {
        let text = text.trim();
        if text.len() < MIN_TOKEN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(WeakToken);
        }
        Ok(Token(text.to_owned()))
    }

    /// A new random token of 64 hexadecimal digits, or why the system has no randomness.
    pub fn random() -> Result<Self, std::io::Error> {
        random_hex().map(Token)
    }

    /// The token itself, to hand it to whoever may use the console.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares in a time that does not tell how much is right.
    pub fn is(&self, offered: &str) -> bool {
        self.0.as_bytes().ct_eq(offered.as_bytes()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// How a request proved that it may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// By the token: a program.
    Bearer,
    /// By a session: the page.
    Session,
}

/// Browser sessions, in memory: a restarted console asks for the token again.
#[derive(Debug)]
pub(crate) struct Sessions {
    /// Cookies do not tell ports apart, so the port is in the name: two consoles on one host stay apart.
    cookie: String,
    live: Mutex<HashMap<String, Instant>>,
}

impl Sessions {
    pub(crate) fn new(port: u16) -> Self {
        Sessions {
            cookie: format!("rsf_session_{port}"),
            live: Mutex::default(),
        }
    }

    /// Begins a session and returns the `Set-Cookie` value.
    pub(crate) fn begin(&self) -> Result<String, std::io::Error> {
        let id = random_hex()?;
        let mut live = self.live.lock();
        live.retain(|_, began| began.elapsed() < SESSION_LIFE);
        if live.len() >= MAX_SESSIONS {
            let oldest = live
                .iter()
                .min_by_key(|(_, began)| **began)
                .map(|(id, _)| id.clone());
            oldest.and_then(|id| live.remove(&id));
        }
        live.insert(id.clone(), Instant::now());
        let (cookie, age) = (&self.cookie, SESSION_LIFE.as_secs());
        Ok(format!(
            "{cookie}={id}; HttpOnly; SameSite=Strict; Path=/; Max-Age={age}"
        ))
    }

    /// Ends the request's session and returns the `Set-Cookie` value that makes the browser forget it.
    pub(crate) fn end(&self, headers: &HeaderMap) -> String {
        if let Some(id) = self.offered(headers) {
            self.live.lock().remove(id);
        }
        format!("{}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0", self.cookie)
    }

    fn holds(&self, headers: &HeaderMap) -> bool {
        // The id is 256 random bits: looking it up in a map tells an attacker nothing useful.
        self.offered(headers)
            .and_then(|id| self.live.lock().get(id).copied())
            .is_some_and(|began| began.elapsed() < SESSION_LIFE)
    }

    fn offered<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|cookies| cookies.split(';'))
            .find_map(|cookie| cookie.trim().strip_prefix(&self.cookie)?.strip_prefix('='))
    }
}

/// Who asks; `None` for nobody who may.
pub(crate) fn caller(token: &Token, sessions: &Sessions, headers: &HeaderMap) -> Option<Caller> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, offered) = value.to_str().ok()?.split_once(' ')?;
        let right = scheme.eq_ignore_ascii_case("bearer") && token.is(offered.trim());
        return right.then_some(Caller::Bearer);
    }
    sessions.holds(headers).then_some(Caller::Session)
}

fn random_hex() -> Result<String, std::io::Error> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        assert!(Token::new("short").is_err());
        assert!(Token::new("with spaces in between it").is_err());
        let token = Token::new(" 0123456789abcdef\n").unwrap();
        assert!(token.is("0123456789abcdef"));
        assert!(!token.is("0123456789abcdeg") && !token.is(""));
        assert_eq!(format!("{token:?}"), "Token(…)");
        assert_ne!(
            Token::random().unwrap().expose(),
            Token::random().unwrap().expose()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_end() {
        let sessions = Sessions::new(7);
        let cookie = sessions.begin().unwrap();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"));
        let mut headers = HeaderMap::new();
        let value = format!("other=1; {}", cookie.split(';').next().unwrap());
        headers.insert(header::COOKIE, value.parse().unwrap());
        assert!(sessions.holds(&headers));
        assert!(!Sessions::new(7).holds(&headers));
        tokio::time::advance(SESSION_LIFE).await;
        assert!(!sessions.holds(&headers));
        for _ in 0..MAX_SESSIONS + 5 {
            sessions.begin().unwrap();
        }
        assert_eq!(sessions.live.lock().len(), MAX_SESSIONS);
    }
}
