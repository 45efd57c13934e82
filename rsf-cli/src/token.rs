//! `rsf token`: keys, and the signed tokens by which applications prove who they are.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use rsf_core::identity::token::unix_seconds;
use rsf_core::identity::{Claims, SigningKey, TrustedKeys};

use crate::Failure;

/// `rsf token …`.
#[derive(Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a key: the private half signs tokens, the public half goes to the providers
    Key(KeyArguments),
    /// Sign a token for one application
    Sign(SignArguments),
    /// Show what a token says, and whether a provider would believe it
    Show(ShowArguments),
}

/// Flags of `rsf token key`.
#[derive(Args)]
pub(crate) struct KeyArguments {
    /// The private key's file, readable by you alone; the public key goes beside it as <FILE>.pub. Neither may exist
    file: PathBuf,
}

/// Flags of `rsf token sign`.
#[derive(Args)]
pub(crate) struct SignArguments {
    /// The private key's file
    #[arg(long)]
    key: PathBuf,
    /// The application whose token it is
    #[arg(long)]
    application: String,
    /// The environment that it is for
    #[arg(long, env = "RSF_NAMESPACE", default_value = "default")]
    namespace: String,
    /// Hours that it is valid from now on, 1 to 87600
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=87_600))]
    hours: u64,
    /// A providing application that it is for; may be given several times [default: all of them]
    #[arg(long)]
    audience: Vec<String>,
    /// The token's file, readable by you alone; replaced as a whole [default: standard output]
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Flags of `rsf token show`.
#[derive(Args)]
pub(crate) struct ShowArguments {
    /// The token's file
    file: PathBuf,
    /// The file with the public keys to check it against
    #[arg(long, env = "RSF_TRUSTED_KEYS")]
    trusted_keys: Option<PathBuf>,
}

pub(crate) fn run(command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Key(arguments) => key(&arguments),
        TokenCommand::Sign(arguments) => sign(arguments),
        TokenCommand::Show(arguments) => show(&arguments),
    }
}

fn key(arguments: &KeyArguments) -> Result<(), Failure> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| format!("the system has no random numbers: {error}"))?;
    let key = SigningKey::from_random(&random);
    let public = public_path(&arguments.file);
    if public.exists() {
        return Err(format!("{} exists; choose another name", public.display()).into());
    }
    create(&arguments.file, 0o600, &key.to_pem()?)?;
    create(&public, 0o644, &key.public_pem()?)?;
    println!("key {}", key.id());
    println!(
        "private  {}  (signs tokens; keep it where they are made)",
        arguments.file.display()
    );
    println!(
        "public   {}  (RSF_TRUSTED_KEYS of the providers)",
        public.display()
    );
    Ok(())
}

fn public_path(private: &Path) -> PathBuf {
    let mut name = private.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

fn sign(arguments: SignArguments) -> Result<(), Failure> {
    let key = SigningKey::from_pem(&read(&arguments.key)?)?;
    let now = unix_seconds();
    let claims = Claims {
        application: arguments.application,
        namespace: arguments.namespace,
        not_before: now,
        expires: now + arguments.hours * 3600,
        audience: arguments.audience,
    };
    let token = claims.sign(&key)?;
    let Some(path) = &arguments.out else {
        println!("{token}");
        return Ok(());
    };
    // Whole or not at all: an application may be reading it.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let _ = std::fs::remove_file(&fresh);
    create(&fresh, 0o600, &token)?;
    std::fs::rename(&fresh, path).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok(())
}

fn show(arguments: &ShowArguments) -> Result<(), Failure> {
    let token = read(&arguments.file)?;
    let token = token.trim();
    let claims = match &arguments.trusted_keys {
        Some(path) => {
            let keys = TrustedKeys::from_pem(&read(path)?)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            Claims::verified(token, &keys)?
        }
        None => Claims::unverified(token)?,
    };
    println!("{}", serde_json::to_string_pretty(&claims)?);
    claims.check_time(unix_seconds())?;
    match arguments.trusted_keys {
        Some(_) => println!("signed by a trusted key"),
        None => println!("the signature was not checked; --trusted-keys names the public keys"),
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, Failure> {
    Ok(std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?)
}

/// Writes a file that must not exist.
fn create(path: &Path, mode: u32, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_made_once_and_sign_tokens_that_providers_believe() {
        let folder = std::env::temp_dir().join(format!("rsf-token-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("fleet.key");
        let keys = || run(TokenCommand::Key(KeyArguments { file: file.clone() }));
        keys().unwrap();
        let again = keys().unwrap_err().to_string();
        assert!(again.contains("exists"), "a key is never overwritten: {again}");
        std::fs::remove_file(folder.join("fleet.key.pub")).unwrap();
        assert!(keys().is_err(), "nor is its private half alone");
        let key = SigningKey::from_pem(&read(&file).unwrap()).unwrap();
        let trusted = folder.join("trusted.pem");
        create(&trusted, 0o644, &key.public_pem().unwrap()).unwrap();
        let token = folder.join("order.token");
        for hours in [1, 2] {
            let arguments = SignArguments {
                key: file.clone(),
                application: "order".to_owned(),
                namespace: "prod".to_owned(),
                hours,
                audience: vec!["stock".to_owned()],
                out: Some(token.clone()),
            };
            run(TokenCommand::Sign(arguments)).unwrap();
        }
        for path in [&file, &token] {
            let mode = std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        }
        let arguments = ShowArguments {
            file: token.clone(),
            trusted_keys: Some(trusted.clone()),
        };
        run(TokenCommand::Show(arguments)).unwrap();
        let keys = TrustedKeys::from_pem(&read(&trusted).unwrap()).unwrap();
        let claims = Claims::verified(&read(&token).unwrap(), &keys).unwrap();
        claims.check(unix_seconds() + 7000, "prod", "stock").unwrap();
        assert_eq!(claims.application, "order");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
