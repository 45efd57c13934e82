//! Which instances calls go to: zones, shards that move, tags, colours down a chain, percentages, expressions, and what is
//! said where none is left.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/counter.rs"]
mod counter;

mod choices;
mod keys;
mod refusals;
mod travel;
mod zones;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rsf_core::client::RouteExplanation;
use rsf_core::context::Context;
use rsf_core::control::Instance;
use rsf_core::error::RpcError;
use rsf_core::message::{Request, Response};
use rsf_core::metadata::Metadata;
use rsf_core::outcome::Reason;
use rsf_core::policy::PolicyDocument;
use rsf_core::server::Provider;
use rsf_core::status::Status;
use serde_json::{Value, json};
use support::{ECHO, Echo, Fleet, GET, Node, Note, Peer, counted, eventually, note, number};

/// An instance that answers with its own id.
fn serve(fleet: &Fleet, id: &'static str, zone: &str, tags: &[(&str, &str)]) -> Node {
    let echo = Echo::with(move |_, _| async move { Ok(Response::new(note(id))) });
    fleet.provide_as(place(id, zone, tags), echo)
}

fn place(id: &'static str, zone: &str, tags: &[(&str, &str)]) -> impl FnOnce(&mut Instance) {
    let tags: BTreeMap<_, _> = tags
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let zone: Arc<str> = zone.into();
    move |instance| {
        instance.id = id.into();
        instance.zone = zone;
        instance.tags = tags;
    }
}

/// A consuming process of `application` in `zone`.
fn consumer(fleet: &Fleet, application: &str, zone: &str) -> Peer {
    fleet.consumer_as(|parts| {
        parts.application = application.to_owned();
        parts.zone = zone.to_owned();
    })
}

/// Publishes rules and waits until the consumer goes by them.
async fn rules(fleet: &Fleet, peer: &Peer, revision: u64, rules: Value) {
    routing(fleet, peer, revision, json!({ "rules": rules })).await;
}

async fn routing(fleet: &Fleet, peer: &Peer, revision: u64, routing: Value) {
    let document = json!({"call": {"routing": routing}});
    fleet.govern(peer, revision, &document.to_string()).await;
}

async fn answer(peer: &Peer, message: Note) -> Result<String, RpcError> {
    peer.get(message).await.map(|reply| reply.into_inner().text)
}

/// Who answered how many of `count` calls with the numbers from 0.
async fn shares(peer: &Peer, count: u32) -> BTreeMap<String, u32> {
    let mut shares = BTreeMap::new();
    for key in 0..count {
        *shares
            .entry(answer(peer, number(key)).await.unwrap())
            .or_default() += 1;
    }
    shares
}

async fn who(peer: &Peer, count: u32) -> Vec<String> {
    shares(peer, count).await.into_keys().collect()
}

fn with(metadata: &[(&str, &str)]) -> Metadata {
    let mut all = Metadata::new();
    for (key, value) in metadata {
        all.insert(key, value).unwrap();
    }
    all
}

fn explained(peer: &Peer, message: &Note) -> RouteExplanation {
    let bytes = prost::Message::encode_to_vec(message).into();
    peer.channel
        .explain_route(GET, &bytes, &Metadata::new(), None)
        .unwrap()
}

/// Waits until so many instances have been found dead.
async fn unreachable(peer: &Peer, count: usize) {
    let dead = || {
        let view = peer.channel.view();
        view.instances
            .iter()
            .filter(|instance| !instance.connected)
            .count()
            == count
    };
    eventually("the dead are found", dead).await;
    // The next attempt to connect fails, and what was known of the zone grows old.
    tokio::time::sleep(Duration::from_millis(500)).await;
}

fn by_number(shard: Value) -> Value {
    let mut rule = json!({"key": "number", "ranges": [
        {"from": 0, "to": 100, "zone": "east"}, {"from": 100, "to": 200, "zone": "west"}]});
    for (key, value) in shard.as_object().unwrap() {
        rule[key] = value.clone();
    }
    json!([{ "shard": rule }])
}
