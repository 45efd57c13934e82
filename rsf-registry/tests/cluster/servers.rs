//! Several independent Redis servers: they share the leases, take over for each other, and give back.

use std::collections::BTreeSet;
use std::time::Duration;

use rsf_registry::cluster::{self, Cluster};
use rsf_registry::error::REQUEST_TIMEOUT;
use rsf_registry::record::{Acknowledgement, Lease, LeaseState, Report, ReportFinding};
use rsf_registry::{AgentOptions, Backend, RegistrationRequest, RegistryAgent, Renewal, StoreError};
use rsf_testkit::{RedisServer, eventually};
use tokio::time::Instant;

use crate::{NOBODY, PATIENCE, TTL, lease, operator};

/// Three servers, and the stores over them.
struct Three {
    servers: Vec<RedisServer>,
    cluster: Cluster,
}

impl Three {
    async fn start() -> Self {
        let servers = vec![
            RedisServer::start().await,
            RedisServer::start().await,
            RedisServer::start().await,
        ];
        let cluster = open(servers.iter());
        Three { servers, cluster }
    }

    /// Which server has the lease of `instance`, in which sequence.
    async fn places(&self, instance: &str) -> Vec<(usize, u64)> {
        let mut places = Vec::new();
        for (at, source) in self.cluster.sources.iter().enumerate() {
            // One that is down has none.
            let live = source.read(&[instance.to_owned()]).await.ok();
            if let Some(live) = live.and_then(|mut live| live.pop().flatten()) {
                places.push((at, live.lease.sequence));
            }
        }
        places
    }

    async fn home(&self, instance: &str) -> usize {
        match self.places(instance).await[..] {
            [(home, _)] => home,
            ref other => panic!("{instance} is at {other:?}"),
        }
    }

    /// Does what the keeper of a lease does, until it stands in a sequence of at least `sequence`.
    async fn keep(&self, lease: &mut Lease, ttl: Duration) {
        let renewal = self
            .cluster
            .leases
            .renew(&lease.instance, lease.incarnation, ttl)
            .await;
        if renewal.unwrap() == Renewal::Unknown {
            lease.sequence += 1;
            self.cluster.leases.put(lease, ttl).await.unwrap();
        }
    }
}

fn open<'a>(servers: impl Iterator<Item = &'a RedisServer>) -> Cluster {
    let urls: Vec<String> = servers.map(RedisServer::url).collect();
    cluster::open(&urls.join(","), NOBODY, "default").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn they_share_the_leases_and_all_processes_agree() {
    let three = Three::start().await;
    let mut lease_of = Vec::new();
    for n in 0..300 {
        let lease = lease(&format!("member/{n}"), 1);
        three.cluster.leases.put(&lease, TTL).await.unwrap();
        lease_of.push(lease);
    }
    let mut all = BTreeSet::new();
    for source in &three.cluster.sources {
        let sweep = source.sweep().await.unwrap();
        assert!((60..140).contains(&sweep.leases.len()), "{}", sweep.leases.len());
        all.extend(sweep.leases.into_iter().map(|live| live.lease.instance));
    }
    assert_eq!(all.len(), 300, "each is on one server");
    // Another process that names the servers in another order puts each where it is.
    let other = open(three.servers.iter().rev());
    for lease in &mut lease_of {
        lease.sequence += 1;
        other.leases.put(lease, TTL).await.unwrap();
    }
    for lease in &lease_of {
        assert_eq!(three.places(&lease.instance).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_takes_over_and_gives_back() {
    let mut three = Three::start().await;
    let mut member = lease("member/1", 1);
    three.cluster.leases.put(&member, TTL).await.unwrap();
    let home = three.home("member/1").await;
    three.servers[home].kill9().await;
    three.keep(&mut member, TTL).await;
    let substitute = three.home("member/1").await;
    assert_ne!(substitute, home);
    assert_eq!(
        three.places("member/1").await,
        [(substitute, 2)],
        "the sequence rises"
    );
    for _ in 0..5 {
        three.keep(&mut member, TTL).await;
    }
    assert_eq!(member.sequence, 2, "there it is renewed");
    three.servers[home].restart().await;
    eventually(PATIENCE, async || {
        three.keep(&mut member, TTL).await;
        match three.places("member/1").await {
            places if places == [(home, 3)] => Ok(()),
            places => Err(format!("{places:?}")),
        }
    })
    .await;
    three.keep(&mut member, TTL).await;
    assert_eq!(member.sequence, 3, "at home it is renewed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_costs_a_second_once() {
    let three = Three::start().await;
    let mut member = lease("member/1", 1);
    three.cluster.leases.put(&member, TTL).await.unwrap();
    let home = three.home("member/1").await;
    three.servers[home].pause().await;
    let begun = Instant::now();
    three.keep(&mut member, TTL).await;
    let moved = begun.elapsed();
    println!("moved from a frozen server in {moved:?}");
    assert!(moved < Duration::from_secs(2), "{moved:?}");
    let begun = Instant::now();
    let newcomers = (0..20).map(|n| {
        let leases = three.cluster.leases.clone();
        async move { leases.put(&lease(&format!("newcomer/{n}"), 1), TTL).await }
    });
    futures_util::future::try_join_all(newcomers).await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_millis(900),
        "they know: {:?}",
        begun.elapsed()
    );
    three.servers[home].resume();
    eventually(PATIENCE, async || {
        three.keep(&mut member, TTL).await;
        match three.places("member/1").await {
            places if places == [(home, member.sequence)] => Ok(()),
            places => Err(format!("{places:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_writes_gets_none_until_it_does() {
    let three = Three::start().await;
    let mut member = lease("member/1", 1);
    three.cluster.leases.put(&member, TTL).await.unwrap();
    let home = three.home("member/1").await;
    let mut operator = operator(&three.servers[home]).await;
    let mut set = async |setting: &str, value: &str| {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg(setting).arg(value);
        set.exec_async(&mut operator).await.unwrap();
    };
    set("maxmemory", "1").await;
    // Wanted anew, as by a drain: a full server renews, but stores nothing.
    member.sequence += 1;
    member.state = LeaseState::Draining.into();
    three.cluster.leases.put(&member, TTL).await.unwrap();
    let sequence = member.sequence;
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        three.keep(&mut member, TTL).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(member.sequence, sequence, "it is not moved to and fro");
    set("maxmemory", "0").await;
    eventually(PATIENCE, async || {
        three.keep(&mut member, TTL).await;
        match three.places("member/1").await {
            places if places == [(home, sequence + 1)] => Ok(()),
            places => Err(format!("{places:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_all_of_them_down_it_says_so_in_time_and_goes_on_after() {
    let mut three = Three::start().await;
    three
        .cluster
        .leases
        .put(&lease("member/1", 1), TTL)
        .await
        .unwrap();
    for server in &three.servers {
        server.kill9().await;
    }
    let begun = Instant::now();
    let refused = three
        .cluster
        .leases
        .put(&lease("member/1", 2), TTL)
        .await
        .unwrap_err();
    assert!(refused.is_transient(), "{refused:?}");
    assert!(
        begun.elapsed() < REQUEST_TIMEOUT + Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(
        three.cluster.leases.renew("member/1", 7, TTL).await.unwrap(),
        Renewal::Unknown
    );
    for server in &mut three.servers {
        server.restart().await;
    }
    eventually(PATIENCE, async || {
        three.cluster.leases.put(&lease("member/1", 3), TTL).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_start_is_told_apart_on_every_server() {
    let three = Three::start().await;
    three
        .cluster
        .leases
        .put(&lease("member/1", 5), TTL)
        .await
        .unwrap();
    let earlier = Lease {
        incarnation: 6,
        ..lease("member/1", 9)
    };
    let refused = three.cluster.leases.put(&earlier, TTL).await;
    assert!(
        matches!(
            &refused,
            Err(StoreError::Superseded {
                incarnation: 7,
                sequence: 5,
                left: false,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(
        three.cluster.leases.renew("member/1", 6, TTL).await.unwrap(),
        Renewal::Unknown
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_are_shared_and_read_as_one() {
    let three = Three::start().await;
    let said = |n: usize, revision| Acknowledgement {
        instance: format!("member/{n}"),
        incarnation: 7,
        application: "member".into(),
        scope: "fleet".into(),
        revision,
        at_unix_ms: revision,
        ..Default::default()
    };
    let store = &three.cluster.acknowledgements;
    for n in 0..60 {
        store.acknowledge(&[said(n, 1)], TTL).await.unwrap();
    }
    assert_eq!(store.acknowledged("fleet").await.unwrap().len(), 60);
    three.servers[0].kill9().await;
    for n in 0..60 {
        store.acknowledge(&[said(n, 2)], TTL).await.unwrap();
    }
    let read = store.acknowledged("fleet").await.unwrap();
    assert_eq!(read.len(), 60);
    assert!(read.iter().all(|one| one.revision == 2), "the later word counts");
    three.servers[1].kill9().await;
    three.servers[2].kill9().await;
    assert!(store.acknowledged("fleet").await.unwrap_err().is_transient());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_outlives_its_server() {
    const SHORT: Duration = Duration::from_secs(2);
    let mut three = Three::start().await;
    let agent = RegistryAgent::new(
        Backend::from(three.cluster.clone()),
        AgentOptions {
            lease_ttl: SHORT,
            ..AgentOptions::new("default", "three servers")
        },
    )
    .unwrap();
    let request = RegistrationRequest {
        application: "member".into(),
        instance: Some("1".into()),
        address: "127.0.0.1:7001".into(),
        ..Default::default()
    };
    let registration = agent.register(request).unwrap();
    let mut status = registration.status();
    status.wait_for(|status| status.registered).await.unwrap();
    for _ in 0..2 {
        let home = three.home("member/1").await;
        three.servers[home].kill9().await;
        let begun = Instant::now();
        eventually(PATIENCE, async || match three.places("member/1").await[..] {
            [(place, _)] if place != home => Ok(()),
            ref places => Err(format!("{places:?}")),
        })
        .await;
        println!("registered on the next server after {:?}", begun.elapsed());
        assert!(
            begun.elapsed() < SHORT,
            "before its lease would have run out: {:?}",
            begun.elapsed()
        );
        assert!(status.borrow().registered && status.borrow().last_error.is_none());
        three.servers[home].restart().await;
        eventually(PATIENCE, async || match three.places("member/1").await[..] {
            [(place, _)] if place == home => Ok(()),
            ref places => Err(format!("{places:?}")),
        })
        .await;
    }
    registration.deregister().await.unwrap();
    let home = three.home("member/1").await;
    let left = three.cluster.sources[home]
        .read(&["member/1".to_owned()])
        .await
        .unwrap();
    assert_eq!(left[0].as_ref().unwrap().lease.state(), LeaseState::Deregistered);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_read_from_all_that_answer_and_written_past_one_that_does_not() {
    let three = Three::start().await;
    // Each consumer reports of another instance, so that none wants for a place.
    let instances: Vec<String> = (0..24).map(|n| format!("member/{n}")).collect();
    let write = async || {
        for (n, instance) in instances.iter().enumerate() {
            let report = Report {
                instance: instance.clone(),
                incarnation: 1,
                finding: ReportFinding::Gone.into(),
                reporter: format!("order/{n}"),
            };
            let written = three.cluster.reports.report(&[report], TTL).await;
            assert_eq!(written.unwrap(), 1, "{instance}");
        }
    };
    let read = async || {
        let read = three.cluster.report_source.reports(&instances).await;
        let read = read.unwrap().reports.into_iter();
        read.map(|report| report.instance).collect::<BTreeSet<_>>().len()
    };
    write().await;
    assert_eq!(read().await, 24);
    three.servers[0].kill9().await;
    let left = read().await;
    assert!((1..24).contains(&left), "each of three had some: {left}");
    write().await;
    assert_eq!(read().await, 24, "the next ones took them");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_consumer_writes_is_passed_over_and_counted() {
    let redis = RedisServer::start().await;
    let cluster = open([&redis].into_iter());
    let mut operator = operator(&redis).await;
    let key = "rsf:default:report:member/1";
    let mut damage = redis::pipe();
    damage.hset(key, "order/1", "nonsense");
    damage.hset(key, "order/2", "99999999999999900000000000000000007x");
    damage.hset(key, "order/3", vec![0xff_u8; 4096]);
    damage.hset("rsf:default:report:member/3", "order/1", "nonsense");
    damage.exec_async(&mut operator).await.unwrap();
    let instances = ["member/1", "member/2", "member/3"].map(str::to_owned);
    let read = cluster.report_source.reports(&instances).await.unwrap();
    assert_eq!((read.reports, read.ill_formed), (vec![], 4));
    // The next consumer that writes clears away what has no deadline.
    let report = Report {
        instance: "member/3".into(),
        incarnation: 1,
        finding: ReportFinding::Answers.into(),
        reporter: "order/9".into(),
    };
    let written = cluster.reports.report(std::slice::from_ref(&report), TTL).await;
    assert_eq!(written.unwrap(), 1);
    let read = cluster.report_source.reports(&instances[2..]).await.unwrap();
    assert_eq!((read.reports, read.ill_formed), (vec![report], 0));
    // Under such a key stands something else altogether: said, and nothing breaks.
    let mut wrong = redis::cmd("SET");
    wrong.arg("rsf:default:report:member/2").arg("text");
    wrong.exec_async(&mut operator).await.unwrap();
    let error = cluster.report_source.reports(&instances[1..2]).await.unwrap_err();
    assert!(error.to_string().contains("WRONGTYPE"), "{error}");
}
