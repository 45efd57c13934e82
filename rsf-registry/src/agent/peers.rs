//! Snapshots of other instances: what a process starts from where neither registry nor disk has anything.
//!
//! Each instance gives what it has in use at its admin port (`GET /snapshot?namespace=…&kind=…&key=…`), in the form that
//! it has on disk: with a checksum, a format and a limit. Where lists must be signed, a list comes as the pump signed it.
//! What comes from a peer is checked as what comes from the disk.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::StatusCode;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::directory::{ListOpener, SealedList};
use crate::record::{PolicyRecord, SealedEvent, ServiceList};
use crate::snapshot::{MAX_SNAPSHOT, Snapshot, checked, frame, unframed};
use crate::{limits, world};

/// How many peers are asked at once; the next ones only where none of these has it.
const AT_ONCE: usize = 3;
/// How many are asked in one go, in an order drawn anew each time.
const ASKED: usize = 12;
/// How long each gets to answer in full.
const PATIENCE: Duration = Duration::from_millis(800);
/// How many answers a process reads at once, for all of its services and scopes: each may have 8 MiB.
const READING: usize = 8;
/// How long nobody else waits for a peer that did not answer: a process may use a thousand services.
const SHUNNED: Duration = Duration::from_secs(2);
/// An epoch is at most the Unix seconds of a pump, or one more than the last. One from further ahead would make every list
/// of the directory older than it.
const FUTURE: Duration = Duration::from_secs(3600);
/// The snapshot's kind that a list has in the form in which it was signed; only peers use it.
const SEALED: u16 = 3;

/// The admin ports of other instances, as they were configured.
pub(super) struct Peers {
    addresses: Vec<String>,
    namespace: String,
    opener: ListOpener,
    places: Semaphore,
    /// Who did not answer, until when nobody else waits for it, and how it failed.
    silent: Mutex<HashMap<String, (Instant, String)>>,
}

/// A whole answer of one peer.
struct Answer {
    status: StatusCode,
    body: Bytes,
}

/// What peers said: the newest good record with what it came from, and what was tried, for messages.
pub(super) struct Said<T> {
    pub(super) found: Option<T>,
    pub(super) tried: String,
}

impl Peers {
    pub(super) fn new(addresses: &[String], namespace: &str, opener: ListOpener) -> Self {
        Peers {
            addresses: addresses.to_vec(),
            namespace: namespace.to_owned(),
            opener,
            places: Semaphore::new(READING),
            silent: Mutex::default(),
        }
    }

    /// Whether there is nobody to ask.
    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// The newest good list of `service` that peers have.
    pub(super) async fn list(&self, service: &str) -> Said<ServiceList> {
        let signed = self.opener.asks_for_signatures();
        let open = |bytes: &[u8]| {
            let list = match signed {
                true => self.open_sealed(service, bytes)?,
                false => (checked::<ServiceList>(bytes, service)?, None),
            };
            let (epoch, _) = list.0.order();
            match epoch <= (world::unix_now() + FUTURE).as_secs() {
                true => Ok(list),
                false => Err(format!("the list's epoch {epoch} is in the future")),
            }
        };
        let kind = if signed { "sealed" } else { "list" };
        let order = |(list, _): &(ServiceList, Option<SealedList>)| list.order();
        let Said { found, mut tried } = self.newest(kind, service, open, order).await;
        if found.is_none() && signed {
            tried.push_str(" (lists must be signed, so peers need RSF_LIST_KEYS too)");
        }
        let found = found.map(|(list, sealed)| {
            // So that others can have what is used, and only that.
            if let Some(sealed) = sealed {
                self.opener.keep(&list, &sealed.head, &sealed.shards);
            }
            list
        });
        Said { found, tried }
    }

    /// The newest good policy of `scope` that peers have.
    pub(super) async fn policy(&self, scope: &str) -> Said<PolicyRecord> {
        let open = |bytes: &[u8]| checked::<PolicyRecord>(bytes, scope);
        self.newest("policy", scope, open, PolicyRecord::order).await
    }

    async fn newest<T>(
        &self,
        kind: &str,
        key: &str,
        open: impl Fn(&[u8]) -> Result<T, String>,
        order: impl Fn(&T) -> (u64, u64),
    ) -> Said<T> {
        if self.addresses.is_empty() {
            let tried = "none is configured (RSF_PEERS)".to_owned();
            return Said { found: None, tried };
        }
        let drawn = fastrand::choose_multiple(&self.addresses, ASKED);
        let (mut newest, mut tried) = (None::<T>, Vec::new());
        for some in drawn.chunks(AT_ONCE) {
            let answers = some.iter().map(|address| async {
                let answer = self.ask(address, kind, key).await;
                (
                    *address,
                    answer.and_then(|bytes| bytes.map(|bytes| open(&bytes)).transpose()),
                )
            });
            for (address, answer) in join_all(answers).await {
                match answer {
                    Ok(Some(record)) => {
                        if newest.as_ref().is_none_or(|known| order(known) < order(&record)) {
                            newest = Some(record);
                        }
                    }
                    Ok(None) => tried.push(format!("{address} does not have it")),
                    Err(reason) => {
                        tracing::debug!(peer = %address, kind, key, reason, "a peer gives no snapshot");
                        tried.push(format!("{address}: {reason}"));
                    }
                }
            }
            if newest.is_some() {
                break;
            }
        }
        let tried = tried.join(", ");
        Said { found: newest, tried }
    }

    /// The snapshot's bytes, as far as their limit; `None` where the peer does not have it.
    async fn ask(&self, address: &str, kind: &str, key: &str) -> Result<Option<Bytes>, String> {
        // It is never closed.
        let _place = self.places.acquire().await.map_err(|error| error.to_string())?;
        if let Some((until, reason)) = self.silent.lock().get(address)
            && Instant::now() < *until
        {
            return Err(reason.clone());
        }
        let answer = timeout(PATIENCE, self.request(address, kind, key)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no whole answer within {PATIENCE:?}")));
        let mut silent = self.silent.lock();
        match answer {
            Ok(answer) => {
                silent.remove(address);
                match answer.status {
                    StatusCode::OK => Ok(Some(answer.body)),
                    StatusCode::NOT_FOUND => Ok(None),
                    status => Err(format!("it answers {status}")),
                }
            }
            Err(reason) => {
                silent.insert(address.to_owned(), (Instant::now() + SHUNNED, reason.clone()));
                Err(reason)
            }
        }
    }

    async fn request(&self, address: &str, kind: &str, key: &str) -> Result<Answer, String> {
        let said = |error: &dyn std::error::Error| super::described(error);
        let stream = TcpStream::connect(address).await.map_err(|error| said(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| said(&error))?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let (namespace, key) = (escaped(&self.namespace), escaped(key));
        let target = format!("/snapshot?namespace={namespace}&kind={kind}&key={key}");
        let request = hyper::Request::get(target)
            .header(HOST, address)
            .body(Empty::<Bytes>::new())
            .map_err(|error| said(&error))?;
        let response = sender.send_request(request).await.map_err(|error| said(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_SNAPSHOT).collect().await;
        let body = body.map_err(|error| said(&*error))?;
        let body = body.to_bytes();
        Ok(Answer { status, body })
    }

    /// The list of a snapshot that has it as it was signed, with that form.
    fn open_sealed(&self, service: &str, bytes: &[u8]) -> Result<(ServiceList, Option<SealedList>), String> {
        let event = SealedEvent::decode(unframed(SEALED, bytes)?).map_err(|error| error.to_string())?;
        let shards = event.shards.into_iter();
        let sealed = SealedList {
            service: service.to_owned(),
            head: event.head.into(),
            shards: shards.map(|(name, data)| (name, Bytes::from(data))).collect(),
            ..SealedList::default()
        };
        // Not counted with those of the directory: no operator could do anything about it there.
        let opened = self
            .opener
            .uncounted()
            .open(&sealed)
            .map_err(|refusal| refusal.to_string())?;
        limits::check_list(&opened.list).map_err(|error| error.to_string())?;
        Ok((opened.list, Some(sealed)))
    }
}

/// A signed list as a snapshot's bytes.
pub(super) fn encode_sealed(sealed: SealedList) -> Vec<u8> {
    let shards: BTreeMap<String, Bytes> = sealed.shards;
    let event = SealedEvent {
        head: sealed.head.into(),
        shards: shards
            .into_iter()
            .map(|(name, data)| (name, data.into()))
            .collect(),
    };
    frame(SEALED, &event.encode_to_vec())
}

/// `text` as a value of a query.
fn escaped(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_fit_a_query() {
        assert_eq!(escaped("shop.v1.A:gold"), "shop%2Ev1%2EA%3Agold");
        assert_eq!(escaped("application/a b&c=ü"), "application%2Fa%20b%26c%3D%C3%BC");
    }
}
