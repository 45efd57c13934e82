//! TLS by rustls under connections of either role, agreed on HTTP/2 by ALPN.
//!
//! [`connect`] and [`accept`] make an encrypted byte stream out of a plain one. It goes into
//! [`Client::over_tls`](crate::Client::over_tls) or [`serve`](crate::serve) like any other. Which certificates are
//! trusted, and whether clients show one, is the configuration's to say.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};
pub use tokio_rustls::{client, rustls, server};

use crate::refusals::Refusal;

/// For how long [`connect`] and [`accept`] wait for the peer: 3 s.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(3);

/// HTTP/2's name in ALPN.
const H2: &[u8] = b"h2";

/// Why there is no encrypted stream.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Nothing that a certificate could be for.
    #[error("`{0}` is no server name: a DNS name or an IP address without a port is")]
    Name(String),
    /// The peer took too long.
    #[error("the TLS handshake took longer than {0:?}")]
    Slow(Duration),
    /// The two ends did not agree on HTTP/2.
    #[error("the peer does not speak HTTP/2 over TLS: it {0}, and gRPC needs `h2` by ALPN")]
    NoHttp2(String),
    /// The peer's certificate is not accepted here.
    #[error("the peer's certificate is not accepted: {0}")]
    Certificate(String),
    /// All else; also a peer that does not accept our certificate.
    #[error("the TLS handshake failed: {0}")]
    Handshake(std::io::Error),
}

/// Encrypts a client's stream to the server `name` (a DNS name or an IP address, without a port), for which its
/// certificate must be. `config`'s list of protocols does not count: `h2` alone is offered, and must be chosen. The peer has
/// [`HANDSHAKE_TIME`].
///
/// # Errors
/// No handshake in time, a certificate that `config` does not accept, or a peer without HTTP/2.
pub async fn connect<S>(
    stream: S,
    name: &str,
    config: Arc<ClientConfig>,
) -> Result<client::TlsStream<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connect_within(HANDSHAKE_TIME, stream, name, config).await
}

/// [`connect`] with a time of its own.
///
/// # Errors
/// As of [`connect`].
pub async fn connect_within<S>(
    time: Duration,
    stream: S,
    name: &str,
    config: Arc<ClientConfig>,
) -> Result<client::TlsStream<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let server = ServerName::try_from(name).map_err(|_| TlsError::Name(name.to_owned()))?;
    let handshake = async {
        let connecting = TlsConnector::from(h2_client(config)).connect(server.to_owned(), stream);
        let mut stream = connecting.await.map_err(reason)?;
        let chosen = alpn(stream.get_ref().1.alpn_protocol());
        match chosen {
            Ok(()) => Ok(stream),
            Err(error) => Err(refuse(&mut stream, error).await),
        }
    };
    let shaken = tokio::time::timeout(time, handshake).await;
    shaken.unwrap_or(Err(TlsError::Slow(time)))
}

/// Encrypts a server's stream. `config`'s list of protocols does not count: `h2` alone is accepted, and must be offered.
/// The peer has [`HANDSHAKE_TIME`]; slow ones are counted as [`Refusal::SlowHandshake`].
///
/// # Errors
/// No handshake in time, a certificate that `config` does not accept, or a peer without HTTP/2.
pub async fn accept<S>(stream: S, config: Arc<ServerConfig>) -> Result<server::TlsStream<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    accept_within(HANDSHAKE_TIME, stream, config).await
}

/// [`accept`] with a time of its own.
///
/// # Errors
/// As of [`accept`].
pub async fn accept_within<S>(
    time: Duration,
    stream: S,
    config: Arc<ServerConfig>,
) -> Result<server::TlsStream<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = async {
        let accepting = TlsAcceptor::from(h2_server(config)).accept(stream);
        let mut stream = accepting.await.map_err(reason)?;
        let chosen = alpn(stream.get_ref().1.alpn_protocol());
        match chosen {
            Ok(()) => Ok(stream),
            Err(error) => Err(refuse(&mut stream, error).await),
        }
    };
    match tokio::time::timeout(time, handshake).await {
        Ok(shaken) => shaken,
        Err(_) => {
            Refusal::SlowHandshake.note();
            Err(TlsError::Slow(time))
        }
    }
}

/// Most configurations say it already, and are shared as they are; a copy shares sessions and tickets with its original.
fn h2_client(config: Arc<ClientConfig>) -> Arc<ClientConfig> {
    if is_h2(&config.alpn_protocols) {
        return config;
    }
    let mut config = ClientConfig::clone(&config);
    config.alpn_protocols = vec![H2.to_vec()];
    Arc::new(config)
}

fn h2_server(config: Arc<ServerConfig>) -> Arc<ServerConfig> {
    if is_h2(&config.alpn_protocols) {
        return config;
    }
    let mut config = ServerConfig::clone(&config);
    config.alpn_protocols = vec![H2.to_vec()];
    Arc::new(config)
}

fn is_h2(protocols: &[Vec<u8>]) -> bool {
    protocols.len() == 1 && protocols.iter().all(|name| name == H2)
}

fn alpn(chosen: Option<&[u8]>) -> Result<(), TlsError> {
    match chosen {
        Some(H2) => Ok(()),
        Some(other) => Err(TlsError::NoHttp2(format!("chose `{}`", other.escape_ascii()))),
        None => Err(TlsError::NoHttp2("named no protocol".to_owned())),
    }
}

/// Says goodbye before the error is told, so that the peer sees an end instead of a reset.
async fn refuse(stream: &mut (impl AsyncWrite + Unpin), error: TlsError) -> TlsError {
    // The peer may be gone already, which is what is wanted.
    let _ = stream.shutdown().await;
    error
}

/// What stands behind a failed handshake.
fn reason(error: std::io::Error) -> TlsError {
    let tls = error.get_ref().and_then(|error| error.downcast_ref());
    match tls {
        Some(rustls::Error::NoApplicationProtocol) => {
            TlsError::NoHttp2("offered other protocols only".to_owned())
        }
        Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            TlsError::NoHttp2("refused the protocol".to_owned())
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            TlsError::Certificate("none of the authorities that are trusted here has issued it".to_owned())
        }
        Some(rustls::Error::InvalidCertificate(why)) => TlsError::Certificate(why.to_string()),
        _ => TlsError::Handshake(error),
    }
}
