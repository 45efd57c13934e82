//! An application's token and the keys that it trusts, read from files and read again when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rsf_core::identity::token::unix_seconds;
use rsf_core::identity::{ApplicationToken, Claims, TokenVerifier, TrustedKeys};
use rsf_registry::directory::ListOpener;
use tokio_util::sync::CancellationToken;

use crate::admin::token::AdminToken;
use crate::settings::{Checked, InvalidSettings};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Bytes of a file at most.
const MAX_FILE: usize = 256 * 1024;

/// What an application proves itself with, and what it checks others' proofs with.
pub(super) struct Credentials {
    /// None where no token is set.
    pub(super) token: ApplicationToken,
    /// None where no keys are set.
    pub(super) verifier: Option<Arc<TokenVerifier>>,
    /// What opens the changes at the admin port; none where nobody can make any.
    pub(super) admin: Option<AdminToken>,
    /// Opens the directory's lists, with the keys that they must be signed with.
    pub(super) lists: ListOpener,
    files: Vec<Followed>,
}

/// A file that is followed.
struct Followed {
    path: PathBuf,
    /// What was read last, good or not, so that each state is judged once.
    text: String,
    /// Takes a new text over, or says what is wrong with it; the old one then stays in force.
    take: Take,
}

type Take = Box<dyn Fn(&str) -> Result<(), String> + Send>;

impl Credentials {
    /// Reads the files that the settings name; all mistakes at once.
    pub(super) fn read(application: &str, settings: &Checked) -> Result<Credentials, InvalidSettings> {
        let mut credentials = Credentials {
            token: ApplicationToken::default(),
            verifier: None,
            admin: None,
            lists: ListOpener::unverified(),
            files: Vec::new(),
        };
        let mut problems = Vec::new();
        if let Some(path) = &settings.token_file
            && let Err(problem) = credentials.read_token(path, application, &settings.namespace)
        {
            problems.push(format!("RSF_TOKEN_FILE: {}: {problem}", path.display()));
        }
        if let Some(path) = &settings.trusted_keys
            && let Err(problem) = credentials.read_keys(path, application, &settings.namespace)
        {
            problems.push(format!("RSF_TRUSTED_KEYS: {}: {problem}", path.display()));
        }
        if let Some(path) = &settings.admin_token_file {
            match AdminToken::in_file(path) {
                Ok(token) => credentials.admin = Some(token),
                Err(problem) => problems.push(format!("RSF_ADMIN_TOKEN_FILE: {problem}")),
            }
        }
        if let Some(path) = &settings.list_keys {
            let keys =
                file(path).and_then(|text| TrustedKeys::from_pem(&text).map_err(|error| error.to_string()));
            match keys {
                Ok(keys) => credentials.lists = ListOpener::trusting(&settings.namespace, keys),
                Err(problem) => problems.push(format!("RSF_LIST_KEYS: {}: {problem}", path.display())),
            }
        }
        match problems.is_empty() {
            true => Ok(credentials),
            false => Err(InvalidSettings { problems }),
        }
    }

    fn read_token(&mut self, path: &Path, application: &str, namespace: &str) -> Result<(), String> {
        let text = file(path)?;
        check_own(&text, application, namespace)?;
        self.token = ApplicationToken::new(text.trim()).map_err(|error| error.to_string())?;
        let (token, application, namespace) =
            (self.token.clone(), application.to_owned(), namespace.to_owned());
        self.files.push(Followed {
            path: path.to_owned(),
            text,
            take: Box::new(move |text| {
                check_own(text, &application, &namespace)?;
                token.replace(text.trim()).map_err(|error| error.to_string())
            }),
        });
        Ok(())
    }

    fn read_keys(&mut self, path: &Path, application: &str, namespace: &str) -> Result<(), String> {
        let text = file(path)?;
        let keys = TrustedKeys::from_pem(&text).map_err(|error| error.to_string())?;
        let verifier = Arc::new(TokenVerifier::new(namespace, application, keys));
        self.verifier = Some(verifier.clone());
        self.files.push(Followed {
            path: path.to_owned(),
            text,
            take: Box::new(move |text| {
                let keys = TrustedKeys::from_pem(text).map_err(|error| error.to_string())?;
                verifier.replace_keys(keys);
                Ok(())
            }),
        });
        Ok(())
    }

    /// Looks at the files until `stop`. A file that is missing or not good leaves what was good in force.
    pub(super) fn follow(self, stop: CancellationToken) {
        if self.files.is_empty() {
            return;
        }
        let mut files = self.files;
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                // On a thread for blocking work: the file may be on a disk that hangs.
                let looked = tokio::task::spawn_blocking(move || {
                    files.iter_mut().for_each(Followed::look);
                    files
                });
                match looked.await {
                    Ok(looked) => files = looked,
                    Err(_) => return,
                }
            }
        }));
    }
}

impl Followed {
    fn look(&mut self) {
        let path = self.path.display();
        match file(&self.path) {
            Ok(text) if text == self.text => {}
            Ok(text) => {
                match (self.take)(&text) {
                    Ok(()) => tracing::info!(%path, "read again"),
                    Err(problem) => {
                        tracing::error!(%path, problem, "not taken over, what was read before stays")
                    }
                }
                self.text = text;
            }
            Err(problem) => tracing::debug!(%path, problem, "cannot be read"),
        }
    }
}

/// One's own token: whose it is can be told without a key, and so can mistakes that every provider would refuse.
fn check_own(text: &str, application: &str, namespace: &str) -> Result<(), String> {
    let claims = Claims::unverified(text.trim()).map_err(|error| error.to_string())?;
    if claims.application != application {
        return Err(format!(
            "the token is application `{}`'s, this is `{application}`",
            claims.application
        ));
    }
    if claims.namespace != namespace {
        return Err(format!(
            "the token is for namespace `{}`, this is `{namespace}`",
            claims.namespace
        ));
    }
    claims
        .check_time(unix_seconds())
        .map_err(|error| error.to_string())
}

fn file(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    match text.len() {
        ..=MAX_FILE => Ok(text),
        bytes => Err(format!("has {bytes} bytes; at most {MAX_FILE} are allowed")),
    }
}
