//! Chains of calls: attempts add up over the tiers and do not multiply.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use rsf_core::client::Channel;
use rsf_core::message::Request;
use rsf_core::server::Provider;
use rsf_core::status::{Code, Status};
use support::{ECHO, Echo, Fleet, GET, Node, Note, Peer, eventually, note};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A chain of services `one` → `two` → … whose last one is `last`; the others hand on what the next one says, by `pass`.
struct Chain {
    fleet: Fleet,
    echoes: Vec<Arc<Echo>>,
    _nodes: Vec<Node>,
    _peers: Vec<Peer>,
    first: Channel,
}

impl Chain {
    fn of(tiers: usize, last: Arc<Echo>, pass: fn(rsf_core::error::RpcError) -> Status) -> Chain {
        let fleet = Fleet::in_test();
        let (mut echoes, mut nodes, mut peers) = (vec![last], Vec::new(), Vec::new());
        let mut next = None;
        for tier in (0..tiers).rev() {
            let name = format!("tier{tier}");
            if let Some(channel) = next.take() {
                let channel: Channel = channel;
                echoes.push(Echo::with(move |_, request: Request<Note>| {
                    let call = channel.call::<Note>(GET, Request::new(request.into_inner()));
                    async move { call.await.map_err(pass) }
                }));
            }
            let instances: Vec<_> = (0..3)
                .map(|_| {
                    let service = echoes.last().unwrap().clone();
                    let node = fleet.start(Provider::builder().service(&name, service), |_| {});
                    let instance = node.instance.clone();
                    nodes.push(node);
                    instance
                })
                .collect();
            fleet.control.set_instances(&format!("{ECHO}:{name}"), instances);
            let peer = fleet.consumer();
            next = Some(peer.channel.implementation(&name));
            peers.push(peer);
        }
        echoes.reverse();
        Chain {
            fleet,
            echoes,
            _nodes: nodes,
            _peers: peers,
            first: next.unwrap(),
        }
    }

    /// Calls that came in at each tier.
    fn began(&self) -> Vec<u32> {
        self.echoes.iter().map(|echo| echo.counts().began).collect()
    }

    async fn governed(&self, tier: usize, policy: &str) {
        let key = format!("{ECHO}:tier{tier}");
        self.fleet.policy(&format!("service/{key}"), 1, policy);
        let view = || {
            let views = self._peers.iter().flat_map(|peer| peer.consumer.views());
            views.filter(|view| view.service == key).any(|view| {
                let mut policies = view.policies.values();
                policies.any(|policy| !policy.origins.is_empty())
            })
        };
        eventually("the policy is in force", view).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_retried_below_is_not_retried_again_above() {
    let passes: [fn(rsf_core::error::RpcError) -> Status; 2] = [
        Status::from,
        // A status of the handler's own, which knows nothing of the one below.
        |_| Status::unavailable("my backend is down"),
    ];
    for pass in passes {
        let chain = Chain::of(4, Echo::failing(Status::unavailable("")), pass);
        let call = chain.first.call::<Note>(GET, Request::new(note("")));
        let error = call.await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.retries_spent());
        assert_eq!(chain.began(), [1, 1, 1, 3], "81 without a stop");
    }
}

#[tokio::test(start_paused = true)]
async fn what_had_no_credit_below_is_not_retried_above_either() {
    let chain = Chain::of(2, Echo::failing(Status::unavailable("")), Status::from);
    let none = r#"{"call":{"retry":{"budget_percent":0,"budget_per_second":0}}}"#;
    chain.governed(1, none).await;
    let call = chain.first.call::<Note>(GET, Request::new(note("")));
    assert!(call.await.unwrap_err().retries_spent());
    assert_eq!(chain.began(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_retried_below_is_retried_above() {
    // Policy grants no further attempt below: nothing was spent there.
    let chain = Chain::of(2, Echo::failing(Status::unavailable("")), Status::from);
    chain.governed(1, r#"{"call":{"retry":{"attempts":1}}}"#).await;
    let call = chain.first.call::<Note>(GET, Request::new(note("")));
    call.await.unwrap_err();
    assert_eq!(chain.began(), [3, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_say_that_a_retry_above_helps_all_the_same() {
    let pass = |_| Status::unavailable("another copy of me has another backend").retry_after(ms(0));
    let chain = Chain::of(2, Echo::failing(Status::unavailable("")), pass);
    let call = chain.first.call::<Note>(GET, Request::new(note("")));
    call.await.unwrap_err();
    // Three attempts below the first one; below the further ones no credit is left.
    assert_eq!(chain.began(), [3, 3 + 1 + 1]);
}

#[tokio::test(start_paused = true)]
async fn calls_inside_a_further_attempt_inherit_that_no_credit_is_left() {
    // The last tier hangs for the first attempt of the first tier's call, and fails for the further ones.
    let first = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let last = Echo::with(move |_, _| {
        let place = first.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async move {
            match place {
                0 => std::future::pending().await,
                _ => Err(Status::unavailable("")),
            }
        }
    });
    let chain = Chain::of(3, last, Status::from);
    chain.governed(0, r#"{"call":{"attempt_timeout_ms":100}}"#).await;
    let call = chain.first.call::<Note>(GET, Request::new(note("")));
    assert_eq!(call.await.unwrap_err().code(), Code::DeadlineExceeded);
    // The first attempt hangs in the last tier; each further one goes down to the last tier once, not three times a tier.
    assert_eq!(chain.began(), [3, 3, 3]);
}

#[tokio::test(start_paused = true)]
async fn what_reached_no_provider_is_attempted_again_even_in_a_further_attempt() {
    let pass = |_| Status::unavailable("").retry_after(ms(0));
    let chain = Chain::of(2, Echo::failing(Status::unavailable("")), pass);
    let control = &chain.fleet.control;
    let mut gone = chain._nodes[0].instance.clone();
    gone.address = "nobody:1".into();
    control.set_instances(&format!("{ECHO}:tier1"), vec![gone]);
    let peers = &chain._peers;
    let listed = || {
        let views = peers.iter().flat_map(|peer| peer.consumer.views());
        let mut tier = views.filter(|view| view.service == format!("{ECHO}:tier1"));
        tier.any(|view| view.instances.len() == 1)
    };
    eventually("the list has changed", listed).await;
    let call = chain.first.call::<Note>(GET, Request::new(note("")));
    call.await.unwrap_err();
    assert_eq!(chain.began(), [3, 0]);
    let below: u64 = peers.iter().map(|peer| peer.metrics.retries.get()).sum();
    assert_eq!(
        below,
        2 + 3 * 2,
        "two of the first tier, two in each of its attempts"
    );
}
