//! Asks an instance itself, by opening a connection to it.

use std::io::ErrorKind;

use async_trait::async_trait;
use tokio::net::TcpStream;

use super::{Evidence, Finding, Kind, Suspect};

/// Opens a TCP connection and closes it again. Whether the right instance answers, each consumer checks for itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpProbe;

#[async_trait]
impl Evidence for TcpProbe {
    fn kind(&self) -> Kind {
        Kind::Probe
    }

    async fn of(&self, suspect: &Suspect) -> Finding {
        match TcpStream::connect(&suspect.address).await {
            Ok(_) => Finding::Answers,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Finding::Gone,
            Err(_) => Finding::Unclear,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn probe(address: &str) -> Finding {
        let suspect = Suspect {
            instance: "a/1".into(),
            incarnation: 1,
            address: address.into(),
        };
        TcpProbe.of(&suspect).await
    }

    #[tokio::test]
    async fn a_port_nobody_listens_on_is_gone_and_an_open_one_answers() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        assert_eq!(probe(&address).await, Finding::Answers);
        drop(listener);
        assert_eq!(probe(&address).await, Finding::Gone);
        assert_eq!(probe("no address").await, Finding::Unclear);
    }
}
