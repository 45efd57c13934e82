//! The secret that opens what an admin port can change, read from its file each time it is needed, so that it can be
//! replaced.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use axum::http::{HeaderMap, header};
use subtle::ConstantTimeEq;

/// The least and the most bytes of a token.
const LENGTH: std::ops::RangeInclusive<usize> = 16..=4096;

/// The most bytes of its file: a token and the end of its line.
const MOST_READ: u64 = 4096 + 2;

/// Where the secret is.
#[derive(Debug, Clone)]
pub(crate) struct AdminToken {
    file: PathBuf,
}

impl AdminToken {
    /// The token in `file`.
    ///
    /// # Errors
    /// Where there is none yet, or a weak one.
    pub(crate) fn in_file(file: &Path) -> Result<Self, String> {
        read(file)?;
        Ok(AdminToken {
            file: file.to_owned(),
        })
    }

    /// Whether a request brought it; compared in a time that does not tell how much is right.
    ///
    /// # Errors
    /// Where the file cannot be used now: for the log, and not for whoever asks, who has shown no token yet.
    pub(crate) async fn opened_by(&self, headers: &HeaderMap) -> Result<bool, String> {
        let offered = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        let Some(offered) = offered else {
            return Ok(false);
        };
        let file = self.file.clone();
        // On a thread for blocking work: the file may be on a disk that hangs.
        let token = tokio::task::spawn_blocking(move || read(&file)).await;
        let token = token.map_err(|_| "this process is ending".to_owned())??;
        Ok(token.as_bytes().ct_eq(offered.as_bytes()).into())
    }
}

fn read(file: &Path) -> Result<String, String> {
    let shown = file.display();
    let bounded = || {
        let mut text = String::new();
        std::fs::File::open(file)?
            .take(MOST_READ + 1)
            .read_to_string(&mut text)?;
        Ok(text)
    };
    let text = bounded().map_err(|error: std::io::Error| format!("{shown} cannot be read: {error}"))?;
    let token = text.trim();
    match text.len() as u64 <= MOST_READ
        && LENGTH.contains(&token.len())
        && token.bytes().all(|byte| byte.is_ascii_graphic())
    {
        true => Ok(token.to_owned()),
        false => Err(format!(
            "{shown} must hold {} to {} visible ASCII characters; make them with `openssl rand -hex 32`",
            LENGTH.start(),
            LENGTH.end()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[tokio::test]
    async fn only_the_token_opens_and_it_can_be_replaced() {
        let file = std::env::temp_dir().join(format!("rsf-admin-token-{}", std::process::id()));
        std::fs::write(&file, "short").unwrap();
        assert!(AdminToken::in_file(&file).unwrap_err().contains("openssl"));
        std::fs::write(&file, format!("0123456789abcdef{}x", " ".repeat(4_082))).unwrap();
        assert!(
            AdminToken::in_file(&file).unwrap_err().contains("openssl"),
            "cut off"
        );
        std::fs::write(&file, format!("{}\r\n", "x".repeat(4_096))).unwrap();
        assert!(AdminToken::in_file(&file).is_ok(), "the longest");
        std::fs::write(&file, "0123456789abcdef\n").unwrap();
        let token = AdminToken::in_file(&file).unwrap();
        let with = |value: &str| {
            let value = HeaderValue::from_str(value).unwrap();
            HeaderMap::from_iter([(header::AUTHORIZATION, value)])
        };
        assert_eq!(token.opened_by(&HeaderMap::new()).await, Ok(false));
        for wrong in [
            "0123456789abcdef",
            "Bearer ",
            "Bearer 0123456789abcdeg",
            "Bearer 0123456789abcdef0",
        ] {
            assert_eq!(token.opened_by(&with(wrong)).await, Ok(false), "{wrong}");
        }
        assert_eq!(token.opened_by(&with("Bearer 0123456789abcdef")).await, Ok(true));
        std::fs::write(&file, "fedcba9876543210").unwrap();
        assert_eq!(token.opened_by(&with("Bearer 0123456789abcdef")).await, Ok(false));
        assert_eq!(token.opened_by(&with("Bearer fedcba9876543210")).await, Ok(true));
        std::fs::remove_file(&file).unwrap();
        assert!(token.opened_by(&with("Bearer fedcba9876543210")).await.is_err());
    }
}
