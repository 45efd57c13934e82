//! Which instances calls go to: zones, shards that move, tags, colours down a chain, percentages, expressions, and what is
//! said where none is left.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

#[path = "support/counter.rs"]
mod counter;

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

#[tokio::test(start_paused = true)]
async fn calls_stay_in_their_zone_and_spill_by_its_health() {
    let fleet = Fleet::in_test();
    let mut east = Vec::new();
    for id in ["e/1", "e/2", "e/3", "e/4"] {
        east.push(serve(&fleet, id, "east", &[]));
    }
    let _west = [
        serve(&fleet, "w/1", "west", &[]),
        serve(&fleet, "w/2", "west", &[]),
    ];
    let peer = consumer(&fleet, "tester", "east");
    peer.connected(6).await;
    assert_eq!(who(&peer, 200).await.len(), 6, "without rules all take calls");
    rules(&fleet, &peer, 1, json!([{"same_zone": {}}])).await;
    assert_eq!(who(&peer, 200).await, ["e/1", "e/2", "e/3", "e/4"]);

    // Half of the zone is gone: 50 % of 70 % stay, the rest spills.
    for node in &mut east[..2] {
        node.kill();
    }
    unreachable(&peer, 2).await;
    let spilt =
        |shares: &BTreeMap<String, u32>| shares.get("w/1").unwrap_or(&0) + shares.get("w/2").unwrap_or(&0);
    let share = spilt(&shares(&peer, 2000).await);
    assert!((480..680).contains(&share), "{share} of 2000 spilt, 571 are due");
    rules(
        &fleet,
        &peer,
        2,
        json!([{"same_zone": {"spill_below_percent": 50}}]),
    )
    .await;
    assert_eq!(who(&peer, 200).await, ["e/3", "e/4"]);

    // The whole zone is lost: from then on no call fails, and none goes there.
    rules(&fleet, &peer, 3, json!([{"same_zone": {}}])).await;
    for node in &mut east[2..] {
        node.kill();
    }
    unreachable(&peer, 4).await;
    assert_eq!(who(&peer, 500).await, ["w/1", "w/2"]);
    rules(
        &fleet,
        &peer,
        4,
        json!([{"same_zone": {"spill_below_percent": 0}}]),
    )
    .await;
    let error = answer(&peer, number(1)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Connect, "{error}");

    // It comes back, and so do the calls.
    rules(&fleet, &peer, 5, json!([{"same_zone": {}}])).await;
    for node in &mut east {
        node.restart();
    }
    peer.connected(6).await;
    let home = |peer: &Peer| {
        let view = peer.channel.view();
        view.instances
            .iter()
            .all(|instance| instance.breaker == "closed" || instance.instance.starts_with('w'))
    };
    for _ in 0..200 {
        if home(&peer) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let _ = shares(&peer, 20).await;
    }
    assert_eq!(who(&peer, 400).await, ["e/1", "e/2", "e/3", "e/4"]);

    // Nobody is left in the zone's list: all calls go elsewhere at once.
    fleet.list(|instances| instances.retain(|instance| &*instance.zone == "west"));
    peer.connected(2).await;
    assert_eq!(who(&peer, 100).await, ["w/1", "w/2"]);
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

#[tokio::test(start_paused = true)]
async fn a_consumer_without_a_zone_prefers_none() {
    let fleet = Fleet::in_test();
    let _nodes = [serve(&fleet, "e", "east", &[]), serve(&fleet, "w", "west", &[])];
    let peer = consumer(&fleet, "tester", "");
    peer.connected(2).await;
    rules(&fleet, &peer, 1, json!([{"same_zone": {}}])).await;
    assert_eq!(who(&peer, 100).await, ["e", "w"]);
}

#[tokio::test(start_paused = true)]
async fn one_zone_serves_all_until_its_standby_must() {
    let fleet = Fleet::in_test();
    let mut east = serve(&fleet, "e", "east", &[]);
    let _others = [serve(&fleet, "w", "west", &[]), serve(&fleet, "n", "north", &[])];
    let peer = consumer(&fleet, "tester", "west");
    peer.connected(3).await;
    rules(
        &fleet,
        &peer,
        1,
        json!([{"primary_zone": {"zone": "east", "standby": ["north"]}}]),
    )
    .await;
    assert_eq!(who(&peer, 100).await, ["e"]);
    rules(
        &fleet,
        &peer,
        2,
        json!([{"primary_zone": {"zone": "west", "standby": ["north"]}}]),
    )
    .await;
    assert_eq!(who(&peer, 100).await, ["w"]);
    rules(
        &fleet,
        &peer,
        3,
        json!([{"primary_zone": {"zone": "east", "standby": ["north"]}}]),
    )
    .await;
    east.kill();
    unreachable(&peer, 1).await;
    assert_eq!(who(&peer, 100).await, ["n"]);
    rules(&fleet, &peer, 4, json!([{"primary_zone": {"zone": "east"}}])).await;
    assert_eq!(who(&peer, 100).await, ["n", "w"]);
    rules(
        &fleet,
        &peer,
        5,
        json!([{"primary_zone": {"zone": "east", "spill_below_percent": 0}}]),
    )
    .await;
    assert_eq!(
        answer(&peer, number(1)).await.unwrap_err().reason(),
        Reason::Connect
    );
}

fn by_number(shard: Value) -> Value {
    let mut rule = json!({"key": "number", "ranges": [
        {"from": 0, "to": 100, "zone": "east"}, {"from": 100, "to": 200, "zone": "west"}]});
    for (key, value) in shard.as_object().unwrap() {
        rule[key] = value.clone();
    }
    json!([{ "shard": rule }])
}

#[tokio::test(start_paused = true)]
async fn a_shard_is_served_by_its_owner_alone() {
    let fleet = Fleet::in_test();
    let mut east = serve(&fleet, "e", "east", &[("disk", "a")]);
    let _west = serve(&fleet, "w", "west", &[("disk", "b")]);
    let peer = consumer(&fleet, "tester", "west");
    peer.connected(2).await;
    rules(&fleet, &peer, 1, by_number(json!({}))).await;
    for key in 0..200 {
        let owner = if key < 100 { "e" } else { "w" };
        assert_eq!(answer(&peer, number(key)).await.unwrap(), owner, "{key}");
    }
    // No range.
    let error = answer(&peer, number(200)).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.may_have_run()),
        (Reason::NoInstance, false)
    );
    assert!(
        error.message().contains("no range holds the key `200`"),
        "{error}"
    );
    // Never elsewhere, even where the owner is gone.
    east.kill();
    unreachable(&peer, 1).await;
    assert_eq!(
        answer(&peer, number(1)).await.unwrap_err().reason(),
        Reason::Connect
    );
    fleet.list(|instances| instances.retain(|instance| &*instance.zone == "west"));
    peer.connected(1).await;
    let error = answer(&peer, number(1)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::NoInstance);
    let told = "routing rule 1 (shard → zone east, of key `1`) left none of 1 instances: 1 is in zone west";
    assert!(error.message().contains(told), "{error}");
    assert_eq!(answer(&peer, number(100)).await.unwrap(), "w");
}

#[tokio::test(start_paused = true)]
async fn shards_go_by_any_key() {
    let fleet = Fleet::in_test();
    let _nodes = [
        serve(&fleet, "e", "east", &[("disk", "a")]),
        serve(&fleet, "w", "west", &[("disk", "b")]),
    ];
    let peer = consumer(&fleet, "tester", "");
    peer.connected(2).await;

    // A text, byte by byte; tags own as zones do.
    let texts = json!({"key": "text", "ranges": [
        {"to": "m", "tag": {"disk": "a"}}, {"from": "m", "to": "y", "tag": {"disk": "b"}}]});
    rules(&fleet, &peer, 1, json!([{ "shard": texts }])).await;
    for (text, owner) in [("anna", "e"), ("m", "w"), ("xaver", "w"), ("lzz", "e")] {
        assert_eq!(answer(&peer, note(text)).await.unwrap(), owner, "{text}");
    }
    assert!(
        answer(&peer, note("yves"))
            .await
            .unwrap_err()
            .message()
            .contains("no range")
    );

    // Without a key: refused, or anywhere.
    let error = answer(&peer, note("")).await.unwrap_err();
    assert!(error.message().contains("the call has no key"), "{error}");
    let mut anywhere = texts.clone();
    anywhere["no_key"] = "any".into();
    rules(&fleet, &peer, 2, json!([{ "shard": anywhere }])).await;
    for _ in 0..20 {
        answer(&peer, note("")).await.unwrap();
    }

    // Buckets of the hash: one owner a key, both have some.
    let buckets = by_number(json!({"buckets": 200}));
    rules(&fleet, &peer, 3, buckets).await;
    let first = shares(&peer, 200).await;
    assert!(first["e"] > 60 && first["w"] > 60, "{first:?}");
    assert_eq!(shares(&peer, 200).await, first);

    // Metadata.
    rules(&fleet, &peer, 4, by_number(json!({"key": "metadata:member"}))).await;
    for (member, owner) in [("7", "e"), ("170", "w")] {
        let call = peer.get(number(1)).metadata(with(&[("member", member)]));
        assert_eq!(call.await.unwrap().get_ref().text, owner);
    }
    assert!(
        answer(&peer, number(1))
            .await
            .unwrap_err()
            .message()
            .contains("no metadata `member`")
    );

    // What the caller names; the provider sees it too.
    let mut named = by_number(json!({}))[0]["shard"].clone();
    named.as_object_mut().unwrap().remove("key");
    rules(&fleet, &peer, 5, json!([{ "shard": named }])).await;
    for (key, owner) in [("7", "e"), ("170", "w")] {
        assert_eq!(
            peer.get(number(1)).routing_key(key).await.unwrap().get_ref().text,
            owner
        );
    }
    assert!(
        answer(&peer, number(1))
            .await
            .unwrap_err()
            .message()
            .contains("no `routing_key` option")
    );

    // The service's key, for a rule that names none.
    routing(
        &fleet,
        &peer,
        6,
        json!({"key": "number", "rules": [{ "shard": named }]}),
    )
    .await;
    assert_eq!(answer(&peer, number(7)).await.unwrap(), "e");
    assert_eq!(answer(&peer, number(170)).await.unwrap(), "w");
}

#[tokio::test(start_paused = true)]
async fn tags_choose_and_rules_add_up() {
    let fleet = Fleet::in_test();
    let _nodes = [
        serve(&fleet, "1", "east", &[("disk", "a"), ("tier", "gold")]),
        serve(&fleet, "2", "east", &[("disk", "b")]),
        serve(&fleet, "3", "west", &[("disk", "a")]),
    ];
    let peer = consumer(&fleet, "tester", "east");
    peer.connected(3).await;
    rules(&fleet, &peer, 1, json!([{"tags": {"require": {"disk": "a"}}}])).await;
    assert_eq!(who(&peer, 100).await, ["1", "3"]);
    rules(
        &fleet,
        &peer,
        2,
        json!([{"tags": {"require": {"disk": "a"}}}, {"same_zone": {}}]),
    )
    .await;
    assert_eq!(who(&peer, 100).await, ["1"]);
    rules(
        &fleet,
        &peer,
        3,
        json!([{"tags": {"require": {"disk": "a", "tier": "gold"}}}]),
    )
    .await;
    assert_eq!(who(&peer, 100).await, ["1"]);
    // The zone is a preference, the disk is not: with no such disk in the zone, the other zone serves.
    rules(
        &fleet,
        &peer,
        4,
        json!([{"same_zone": {}}, {"tags": {"require": {"disk": "b"}}}]),
    )
    .await;
    assert_eq!(who(&peer, 100).await, ["2"]);
    let west = consumer(&fleet, "tester", "west");
    west.connected(3).await;
    assert_eq!(who(&west, 100).await, ["2"]);
    rules(
        &fleet,
        &peer,
        5,
        json!([{"tags": {"require": {"disk": "a"}}}, {"tags": {"require": {"disk": "b"}}}]),
    )
    .await;
    let error = answer(&peer, number(1)).await.unwrap_err();
    let told = "routing rule 2 (tags → tags disk=b) left none of 2 instances: 2 are tagged disk=a; rule 1 (tags → tags disk=a) had removed 1";
    assert!(error.message().contains(told), "{error}");
}

#[tokio::test(start_paused = true)]
async fn consumers_may_have_rules_of_their_own() {
    let fleet = Fleet::in_test();
    let _nodes = [serve(&fleet, "e", "east", &[]), serve(&fleet, "w", "west", &[])];
    let (peer, bank) = (consumer(&fleet, "tester", ""), consumer(&fleet, "bank", ""));
    let policy = json!({"call": {"routing": {"rules": by_number(json!({}))}},
        "consumers": {"bank": {"routing": {"rules": [{"primary_zone": {"zone": "west"}}]}}}});
    fleet.service_policy(1, &policy.to_string());
    for peer in [&peer, &bank] {
        peer.connected(2).await;
        peer.governed(|policy| policy.origins.contains_key("routing.rules"))
            .await;
    }
    assert_eq!(answer(&peer, number(1)).await.unwrap(), "e");
    // Its provider knows that shards are not for this consumer.
    assert_eq!(answer(&bank, number(1)).await.unwrap(), "w");
}

#[tokio::test(start_paused = true)]
async fn a_share_of_the_calls_goes_to_the_canary() {
    let fleet = Fleet::in_test();
    let _stable = [serve(&fleet, "1", "", &[]), serve(&fleet, "2", "", &[])];
    let canary = serve(&fleet, "c", "", &[("stage", "canary")]);
    let peer = consumer(&fleet, "tester", "");
    peer.connected(3).await;
    let percent = |percent: f64| json!([{"percent": {"percent": percent, "tags": {"stage": "canary"}}}]);
    fastrand::seed(11);
    let mut revision = 0;
    for share in [0.0, 5.0, 50.0, 100.0] {
        revision += 1;
        rules(&fleet, &peer, revision, percent(share)).await;
        let got = f64::from(shares(&peer, 1500).await.get("c").copied().unwrap_or(0)) / 15.0;
        assert!((got - share).abs() < 3.0, "{got} % instead of {share} %");
        assert!(share > 0.0 || got == 0.0);
        assert!(share < 100.0 || got == 100.0);
    }
    // With a key the same calls each time, and those that were in a smaller share are in the larger one.
    let mut before = Vec::new();
    for share in [10.0, 10.0, 30.0] {
        revision += 1;
        let policy = json!({"key": "number", "rules": percent(share)});
        routing(&fleet, &peer, revision, policy).await;
        let mut within = Vec::new();
        for key in 0..1000 {
            if answer(&peer, number(key)).await.unwrap() == "c" {
                within.push(key);
            }
        }
        let got = within.len() as f64 / 10.0;
        assert!((got - share).abs() < 4.0, "{got} % instead of {share} %");
        assert!(before.iter().all(|key| within.contains(key)));
        assert!(share > 10.0 || before.is_empty() || before == within);
        before = within;
    }
    // No canary runs: nobody misses it.
    let gone = canary.instance.id.clone();
    fleet.list(|instances| instances.retain(|instance| instance.id != gone));
    peer.connected(2).await;
    assert_eq!(who(&peer, 200).await, ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn an_expression_chooses_by_the_request() {
    let fleet = Fleet::in_test();
    let _nodes = [
        serve(&fleet, "e", "east", &[("disk", "a")]),
        serve(&fleet, "w", "west", &[("disk", "b")]),
    ];
    let peer = consumer(&fleet, "tester", "");
    peer.connected(2).await;
    let zone = |text: &str| json!([{"expression": {"text": text}}]);
    rules(
        &fleet,
        &peer,
        1,
        zone(r#"request.number % 2 == 0 ? "east" : metadata["vip"] == "yes" ? "west" : """#),
    )
    .await;
    assert_eq!(answer(&peer, number(4)).await.unwrap(), "e");
    let vip = peer.get(number(5)).metadata(with(&[("vip", "yes")]));
    assert_eq!(vip.await.unwrap().get_ref().text, "w");
    let mut anybody = Vec::new();
    for _ in 0..50 {
        anybody.push(answer(&peer, number(5)).await.unwrap());
    }
    assert!(anybody.contains(&"e".to_owned()) && anybody.contains(&"w".to_owned()));
    rules(
        &fleet,
        &peer,
        2,
        json!([{"expression": {"text": "request.text", "tag": "disk"}}]),
    )
    .await;
    assert_eq!(answer(&peer, note("a")).await.unwrap(), "e");
    assert_eq!(answer(&peer, note("b")).await.unwrap(), "w");
    let error = answer(&peer, note("c")).await.unwrap_err();
    assert!(
        error
            .message()
            .contains("(expression → tag disk=c, by the expression) left none of 2"),
        "{error}"
    );
    rules(&fleet, &peer, 3, zone(r#"method == "Get" ? "west" : """#)).await;
    assert_eq!(who(&peer, 50).await, ["w"]);
    // What fails for one call fails that call alone, before it is sent.
    rules(
        &fleet,
        &peer,
        4,
        zone(r#"10 / request.number > 1 ? "east" : "west""#),
    )
    .await;
    assert_eq!(answer(&peer, number(1)).await.unwrap(), "e");
    let error = answer(&peer, number(0)).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.may_have_run()),
        (Reason::NoInstance, false)
    );
    assert!(error.message().contains("division by zero"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_explanation_names_every_instance_and_rule() {
    let fleet = Fleet::in_test();
    let _nodes = [
        serve(&fleet, "1", "east", &[("disk", "a")]),
        serve(&fleet, "2", "west", &[("disk", "a")]),
        serve(&fleet, "3", "west", &[]),
    ];
    let _drains = fleet.provide_as(|instance| instance.draining = true, Echo::plain());
    let peer = consumer(&fleet, "tester", "west");
    peer.connected(3).await;
    let all = explained(&peer, &number(1));
    assert_eq!((all.left.len(), all.left_out.len(), all.rules.len()), (3, 1, 0));
    rules(
        &fleet,
        &peer,
        1,
        json!([{"tags": {"require": {"disk": "a"}}}, {"same_zone": {}}]),
    )
    .await;
    let explanation = serde_json::to_value(explained(&peer, &number(1))).unwrap();
    assert_eq!(
        explanation,
        json!({
            "left_out": [{"instance": "echo/4", "reason": "drains"}],
            "left": ["2"],
            "rules": [
                {"rule": 1, "kind": "tags", "kept": "tags disk=a", "because": "", "of": 3,
                 "removed": [{"instance": "3", "reason": "not tagged disk"}]},
                {"rule": 2, "kind": "same_zone", "kept": "zone west", "because": "100 % of it are well", "of": 2,
                 "removed": [{"instance": "1", "reason": "in zone east"}]},
            ],
        })
    );
    rules(&fleet, &peer, 2, by_number(json!({}))).await;
    let explanation = explained(&peer, &number(300));
    assert!(explanation.left.is_empty());
    assert_eq!(explanation.rules[0].because, "no range holds the key `300`");
}

#[test]
fn bad_rules_are_refused_with_all_their_errors() {
    let scope = format!("service/{ECHO}").parse().unwrap();
    let deep = format!("{}1{}", "(".repeat(500), ")".repeat(500));
    let rules = json!([
        {"same_zone": {"spill_below_percent": 101}},
        {"primary_zone": {}},
        {"shard": {"key": "a..b", "ranges": [
            {"from": 0, "to": 10, "zone": "east"}, {"from": 5, "zone": "west"}, {"from": 3, "to": 3}]}},
        {"shard": {"ranges": [{"from": "a", "zone": "east"}, {"to": 9, "zone": "west"}], "no_key": "maybe"}},
        {"shard": {"ranges": [{"from": true, "zone": "east"}]}},
        {"tags": {}},
        {"dye": {"tag": "", "metadata": "rsf-dye"}},
        {"percent": {"percent": 120, "tags": {}}},
        {"expression": {"text": "while(true)"}},
        {"expression": {"text": deep}},
        {"expression": {"text": format!("{} ? \"a\" : \"b\"", vec!["true"; 300].join(" && "))}},
        {"expression": {"text": "x".repeat(5000)}},
        {"tags": {"require": {"a": "b"}}, "same_zone": {}},
        {},
        {"zone": "east"},
    ]);
    let document = json!({"call": {"routing": {"key": "metadata:", "rules": rules}},
        "consumers": {"bank": {"routing": {"rules": [{"expression": {"text": "1"}}]}}},
        "methods": {"Get": {"routing": {"rules": []}}}});
    let errors = PolicyDocument::parse(&scope, &document.to_string()).unwrap_err();
    let said: Vec<_> = errors.iter().map(ToString::to_string).collect();
    for (path, problem) in [
        ("call.routing.key", "no metadata key"),
        ("call.routing.rules[0].same_zone.spill_below_percent", "0 to 100"),
        ("call.routing.rules[1].primary_zone.zone", "required"),
        ("call.routing.rules[2].shard.key", "is no key"),
        ("call.routing.rules[2].shard.ranges", "[2] names neither"),
        ("call.routing.rules[3].shard.no_key", "refuse, any"),
        ("call.routing.rules[4]", "whole numbers or texts"),
        ("call.routing.rules[5].tags.require", "required"),
        ("call.routing.rules[6].dye.tag", "is empty"),
        ("call.routing.rules[6].dye.metadata", "no metadata key"),
        ("call.routing.rules[7].percent.percent", "0 to 100"),
        ("call.routing.rules[7].percent.tags", "required"),
        (
            "call.routing.rules[8].expression.text",
            "unknown function `while`",
        ),
        ("call.routing.rules[9].expression.text", "16 levels deep"),
        ("call.routing.rules[10].expression.text", "200 nodes"),
        ("call.routing.rules[11].expression.text", "4096"),
        ("call.routing.rules[12]", "exactly one of"),
        ("call.routing.rules[13]", "exactly one of"),
        ("call.routing.rules[14].zone", "unknown field"),
        (
            "consumers.bank.routing.rules[0].expression.text",
            "yields a number",
        ),
        ("methods.Get.routing", "put it under `call`"),
    ] {
        let found = said
            .iter()
            .any(|error| error.starts_with(&format!("{path}: ")) && error.contains(problem));
        assert!(found, "{path}: {problem} is missing in {said:#?}");
    }
}

#[test]
fn ranges_that_overlap_and_rules_that_multiply_are_refused() {
    let scope = format!("service/{ECHO}").parse().unwrap();
    let refused = |rules: Value| {
        let document = json!({"call": {"routing": {"rules": rules}}});
        let errors = PolicyDocument::parse(&scope, &document.to_string()).unwrap_err();
        errors
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    };
    let shard = |ranges: Value| json!([{"shard": {"ranges": ranges}}]);
    for (ranges, problem) in [
        (
            json!([{"from": 0, "to": 10, "zone": "a"}, {"from": 9, "zone": "b"}]),
            "[0] and [1] overlap",
        ),
        (
            json!([{"from": "x", "zone": "a"}, {"to": "y", "zone": "b"}]),
            "[1] and [0] overlap",
        ),
        (json!([{"from": 5, "to": 5, "zone": "a"}]), "[0] is empty"),
        (
            json!([{"from": 5, "zone": "a"}, {"to": "a", "zone": "b"}]),
            "numbers in some ranges",
        ),
        (json!([{"zone": "a", "tag": {"b": "c"}}]), "names neither one"),
        (json!([{"tag": {"b": "c", "d": "e"}}]), "names neither one"),
        (json!([{"tag": {"b=c": "e"}}]), "has a `=`"),
        (json!([]), "is required"),
    ] {
        let said = refused(shard(ranges));
        assert!(said.contains(problem), "{said}");
    }
    let twice = json!([{"shard": {"ranges": [{"zone": "a"}]}}, {"shard": {"ranges": [{"zone": "b"}]}}]);
    assert!(refused(twice).contains("more than one `shard`"));
    let ranges: Vec<_> = (0..100)
        .map(|n| json!({"from": n, "to": n + 1, "zone": format!("z{n}")}))
        .collect();
    let many = json!([{"shard": {"ranges": ranges}}, {"same_zone": {}}, {"percent": {"percent": 1, "tags": {"a": "b"}}}]);
    assert!(refused(many).contains("400 sets"));
}

#[tokio::test(start_paused = true)]
async fn a_refused_expression_leaves_the_last_good_rules_in_force() {
    let fleet = Fleet::in_test();
    let _nodes = [serve(&fleet, "e", "east", &[]), serve(&fleet, "w", "west", &[])];
    let peer = consumer(&fleet, "tester", "");
    peer.connected(2).await;
    rules(&fleet, &peer, 1, json!([{"expression": {"text": "\"west\""}}])).await;
    let scope = format!("service/{ECHO}");
    let endless = json!({"call": {"routing": {"rules": [{"expression": {"text": "while(true)"}}]}}});
    fleet.service_policy(2, &endless.to_string());
    eventually("the refusal is said", || {
        fleet
            .acknowledged(&scope)
            .is_some_and(|(revision, refusal)| revision == 2 && refusal.is_some())
    })
    .await;
    let (_, refusal) = fleet.acknowledged(&scope).unwrap();
    assert!(refusal.unwrap().contains("unknown function `while`"));
    assert_eq!(counted(&peer.registry, "rsf_policies_refused_total", ""), 1);
    assert_eq!(who(&peer, 50).await, ["w"]);
}

#[tokio::test(start_paused = true)]
async fn sets_beyond_the_bound_are_refused_call_by_call() {
    let fleet = Fleet::in_test();
    fleet.list(|instances| {
        for place in 0..400 {
            let mut instance = Instance::at("echo", &format!("far-{place}:1"));
            instance.zone = format!("z{place:03}").into();
            instances.push(instance);
        }
    });
    let peer = consumer(&fleet, "tester", "");
    eventually("all are listed", || peer.channel.view().instances.len() == 400).await;
    rules(
        &fleet,
        &peer,
        1,
        json!([{"expression": {"text": "request.text"}}]),
    )
    .await;
    let within = explained(&peer, &note("z001"));
    assert_eq!(within.left.len(), 1);
    let beyond = answer(&peer, note("z399")).await.unwrap_err();
    assert_eq!(beyond.reason(), Reason::NoInstance);
    assert!(beyond.message().contains("more than 256 sets"), "{beyond}");
}

/// An echo that asks `next` in its handler, and answers with the ids down the chain.
fn chained(fleet: &Fleet, id: &'static str, tags: &[(&str, &str)], next: Option<Arc<Peer>>) -> Node {
    let echo = Echo::with(move |_, request: Request<Note>| {
        let next = next.clone();
        async move {
            let further = match next {
                Some(next) => format!(">{}", answer(&next, request.into_inner()).await?),
                None => String::new(),
            };
            Ok(Response::new(note(&format!("{id}{further}"))))
        }
    });
    fleet.provide_as(place(id, "", tags), echo)
}

#[tokio::test(start_paused = true)]
async fn a_colour_travels_down_the_chain() {
    // a → b → c, each a fleet with a plain instance; b and c have blue ones, and b has no rule of its own.
    let (b, c) = (Fleet::in_test(), Fleet::in_test());
    let dye = |tag: &str, fallback: bool| json!([{"dye": {"tag": tag, "metadata": "x-colour", "fallback": fallback}}]);
    let _c = [
        chained(&c, "c", &[], None),
        chained(&c, "c-blue", &[("colour", "blue")], None),
    ];
    let to_c = Arc::new(consumer(&c, "b", ""));
    to_c.connected(2).await;
    rules(&c, &to_c, 1, json!([{"dye": {"tag": "colour"}}])).await;
    let _b = [
        chained(&b, "b", &[], Some(to_c.clone())),
        chained(&b, "b-blue", &[("colour", "blue")], Some(to_c.clone())),
    ];
    let peer = consumer(&b, "a", "");
    peer.connected(2).await;
    rules(&b, &peer, 1, dye("colour", true)).await;
    let ask = async |colour: Option<&str>| {
        let metadata = colour.map_or_else(Metadata::new, |colour| with(&[("x-colour", colour)]));
        let mut answers = BTreeMap::new();
        for _ in 0..30 {
            let reply = peer.get(number(1)).metadata(metadata.clone()).await;
            let answer = reply.map_or_else(
                |error| error.message().to_owned(),
                |reply| reply.into_inner().text,
            );
            *answers.entry(answer).or_insert(0) += 1;
        }
        answers.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(ask(None).await, ["b>c"]);
    assert_eq!(ask(Some("blue")).await, ["b-blue>c-blue"]);
    // Nobody is green: the plain ones serve, and the colour goes on down.
    assert_eq!(ask(Some("green")).await, ["b>c"]);
    rules(&b, &peer, 2, dye("colour", false)).await;
    let refused = ask(Some("green")).await;
    assert!(
        refused[0].contains("(dye → tag colour=green, the call's colour) left none of 2"),
        "{refused:?}"
    );
    // The colour is not b's to know: whom it calls goes by it all the same.
    rules(
        &b,
        &peer,
        3,
        json!([{"dye": {"tag": "none", "metadata": "x-colour"}}]),
    )
    .await;
    assert_eq!(ask(Some("blue")).await, ["b-blue>c-blue", "b>c-blue"]);
    // Other metadata colours it.
    rules(
        &b,
        &peer,
        4,
        json!([{"dye": {"tag": "colour", "metadata": "x-other"}}]),
    )
    .await;
    assert_eq!(ask(Some("blue")).await, ["b>c"]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_stays_in_its_pool_when_the_sets_change_meanwhile() {
    let fleet = Fleet::in_test();
    let [blue, green, red] = ["blue", "green", "red"].map(|colour| {
        let echo = Echo::with(move |_, _| async move {
            match Context::current()
                .unwrap()
                .metadata()
                .get("grpc-previous-rpc-attempts")
            {
                Some(_) => Ok(Response::new(note(colour))),
                None => Err(Status::unavailable("busy").retry_after(Duration::from_millis(200))),
            }
        });
        let node = fleet.provide_as(place(colour, "", &[("colour", colour)]), echo.clone());
        (echo, node)
    });
    fleet.list(|listed| listed.retain(|instance| *instance.id != *"red"));
    let peer = consumer(&fleet, "tester", "");
    peer.connected(2).await;
    rules(
        &fleet,
        &peer,
        1,
        json!([{"dye": {"tag": "colour", "metadata": "x-colour"}}]),
    )
    .await;
    let request = Request::from_parts(note(""), with(&[("x-colour", "blue")]));
    let change = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        // By their names, the green set now has the place that was the blue one's.
        fleet.list(|listed| {
            listed.retain(|instance| *instance.id != *"blue");
            listed.push(red.1.instance.clone());
        });
    };
    let call = peer.channel.call::<Note>(GET, request).into_future();
    let (reply, ()) = tokio::join!(call, change);
    assert_eq!(reply.unwrap().get_ref().text, "blue");
    assert_eq!(
        [&blue, &green, &red].map(|(echo, _)| echo.counts().began),
        [2, 0, 0]
    );
}

#[tokio::test(start_paused = true)]
async fn a_subset_of_each_pool_is_connected_and_counted() {
    let fleet = Fleet::in_test();
    fleet.service_policy(
        1,
        &json!({"call": {
            "connections": {"subset": 3, "floor": 6},
            "node_breaker": {"max_ejected_percent": 50},
            "retry": {"attempts": 1},
            "routing": {"rules": [{"dye": {"tag": "colour", "metadata": "x-colour"}}]},
        }})
        .to_string(),
    );
    let seen = Arc::new(Mutex::new(BTreeMap::new()));
    let nodes: Vec<_> = (0..24)
        .map(|number| {
            let seen = seen.clone();
            let echo = Echo::with(move |_, _| {
                *seen.lock().entry(number).or_insert(0) += 1;
                std::future::ready(Err(Status::unavailable("ill")))
            });
            let colour = ["blue", "green"][number % 2];
            fleet.provide_as(
                |instance| drop(instance.tags.insert("colour".into(), colour.into())),
                echo,
            )
        })
        .collect();
    let peer = consumer(&fleet, "tester", "");
    eventually("the policy is in force", || {
        peer.channel.view().instances.len() == 3
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..200 {
        for colour in ["blue", "green"] {
            let request = Request::from_parts(note(""), with(&[("x-colour", colour)]));
            peer.channel.call::<Note>(GET, request).await.unwrap_err();
        }
    }
    // Connected ahead, all of them, so that each takes its calls from the first one on.
    assert_eq!(seen.lock().len(), 6);
    // Half of the six that calls can come to, not of the three that a call without a colour would have.
    assert_eq!(counted(&peer.registry, "rsf_node_breaker_opened_total", ECHO), 3);
    drop(nodes);
}

#[tokio::test(start_paused = true)]
async fn tonic_clients_are_routed_by_what_stands_in_their_headers() {
    const COUNTER: &str = "test.v1.Counter";
    let fleet = Fleet::in_test();
    // The one in the west knows no such service: it answers, but with an error of its own.
    let east = fleet.start(
        Provider::builder().tonic_service(counter::Counter),
        place("e", "east", &[]),
    );
    let west = fleet.start(
        Provider::builder().service("", Echo::plain()),
        place("w", "west", &[]),
    );
    fleet
        .control
        .set_instances(COUNTER, vec![east.instance.clone(), west.instance.clone()]);
    let ranges = json!([{"to": 100, "zone": "east"}, {"from": 100, "zone": "west"}]);
    let routing = json!({"rules": [{"shard": {"key": "metadata:member", "ranges": ranges}}]});
    let policy = |routing: &Value| json!({"call": {"routing": routing}}).to_string();
    let scope = format!("service/{COUNTER}");
    fleet.policy(&scope, 1, &policy(&routing));
    let peer = fleet.consumer();
    let mut client = counter::Client::new(peer.consumer.tonic_channel(COUNTER));
    let mut ask = async |member: Option<&str>| {
        let mut request = tonic::Request::new(number(7));
        if let Some(member) = member {
            request.metadata_mut().insert("member", member.parse().unwrap());
        }
        client
            .unary("/test.v1.Counter/Next", request)
            .await
            .map_or_else(|status| status.code(), |_| tonic::Code::Ok)
    };
    assert_eq!(ask(Some("99")).await, tonic::Code::Ok);
    assert_eq!(ask(Some("100")).await, tonic::Code::Unimplemented);
    assert_eq!(ask(None).await, tonic::Code::Unavailable);
    // A zone is what the list says now, and what the consumer meant is checked by the provider too.
    let moved = Instance {
        zone: "east".into(),
        ..west.instance.clone()
    };
    fleet.control.set_instances(COUNTER, vec![moved]);
    eventually("the list is known", || {
        peer.consumer.views()[0].instances.len() == 1
    })
    .await;
    assert_eq!(ask(Some("99")).await, tonic::Code::Unimplemented);
    let lost = Instance {
        zone: "west".into(),
        ..east.instance.clone()
    };
    fleet.control.set_instances(COUNTER, vec![lost]);
    eventually("the list is known", || {
        peer.consumer.views()[0].instances[0].instance == "e"
    })
    .await;
    assert_eq!(ask(Some("100")).await, tonic::Code::FailedPrecondition);
}
