//! The fold against a naive model: whatever comes in whatever order, the lists end as the leases say, and every list
//! between is valid.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use rsf_pump::fold::{FindingAges, Fold, Moment};
use rsf_pump::shrink::{Discontinuity, ShrinkConfig, ShrinkRule};
use rsf_registry::lease::LiveLease;
use rsf_registry::record::{
    Lease, LeaseState, ListedInstance, ProvidedService, Removal, RemovalCause, ServiceList,
};

const TTL: Duration = Duration::from_secs(15);
const AGES: FindingAges = FindingAges {
    again: Duration::from_secs(10),
    life: Duration::from_secs(30),
};
const SOURCES: usize = 2;
const SERVICES: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
enum Step {
    /// A start of an instance, on a source, at an address, with these services.
    Start {
        instance: u8,
        source: usize,
        address: u8,
        services: u8,
    },
    /// Another write of a running instance.
    Update {
        instance: u8,
        services: u8,
        weight: u32,
        draining: bool,
    },
    Renew(u8),
    /// A running instance goes to the other source with a new word; its lease on the former runs out.
    Move(u8),
    /// An instance whose lease was lost writes it again, unchanged.
    Again(u8),
    Deregister(u8),
    Advance(u64),
    /// A hint or a deadline: one lease is read.
    Read(u8, usize),
    Sweep(usize),
    /// The answer to a question that was asked before the last change.
    StaleSweep(usize),
    /// A source loses everything.
    Flush(usize),
    /// A source answers no more.
    Silence(usize),
    /// A source answers again.
    Speak(usize),
    /// The pump is killed; another reads the lists back.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let (instance, source) = (0u8..12, 0usize..SOURCES);
    prop_oneof![
        4 => (instance.clone(), source.clone(), 0u8..14, 0u8..8)
            .prop_map(|(instance, source, address, services)| Step::Start { instance, source, address, services }),
        2 => (instance.clone(), 0u8..8, 0u32..3, any::<bool>()).prop_map(
            |(instance, services, weight, draining)| Step::Update { instance, services, weight, draining }
        ),
        4 => instance.clone().prop_map(Step::Renew),
        2 => instance.clone().prop_map(Step::Move),
        2 => instance.clone().prop_map(Step::Again),
        1 => instance.clone().prop_map(Step::Deregister),
        4 => (1u64..9_000).prop_map(Step::Advance),
        4 => (instance, source.clone()).prop_map(|(instance, source)| Step::Read(instance, source)),
        4 => source.clone().prop_map(Step::Sweep),
        1 => source.clone().prop_map(Step::StaleSweep),
        1 => source.clone().prop_map(Step::Flush),
        1 => source.clone().prop_map(Step::Silence),
        2 => source.prop_map(Step::Speak),
        1 => Just(Step::Restart),
    ]
}

/// The sources, the fold under test, and what was seen of its lists.
struct Run {
    now: Duration,
    starts: u64,
    stores: [BTreeMap<String, (Lease, Duration)>; SOURCES],
    /// Which source each instance renews on.
    homes: BTreeMap<String, usize>,
    silent: [bool; SOURCES],
    /// What each running instance last wrote.
    written: BTreeMap<String, Lease>,
    earlier: [(Duration, Vec<LiveLease>); SOURCES],
    fold: Fold,
    rule: ShrinkRule,
    enforced: bool,
    seen: BTreeMap<String, Vec<ListedInstance>>,
    /// By service: when how many were lost without a word, and how many were listed before.
    losses: BTreeMap<String, Vec<(Duration, usize, usize)>>,
}

impl Run {
    fn new(enforced: bool) -> Run {
        Run {
            now: Duration::from_secs(1),
            starts: 0,
            stores: Default::default(),
            homes: BTreeMap::new(),
            silent: [false; SOURCES],
            written: BTreeMap::new(),
            earlier: Default::default(),
            fold: Fold::new(),
            rule: rule(enforced),
            enforced,
            seen: BTreeMap::new(),
            losses: BTreeMap::new(),
        }
    }

    fn at(&self) -> Moment {
        Moment {
            elapsed: self.now,
            unix_ms: self.now.as_millis() as u64,
        }
    }

    fn live(&self, source: usize) -> Vec<LiveLease> {
        let live = self.stores[source]
            .values()
            .filter(|(_, deadline)| *deadline > self.now);
        live.map(|(lease, deadline)| LiveLease {
            lease: lease.clone(),
            remaining: *deadline - self.now,
        })
        .collect()
    }

    fn stored(&mut self, instance: u8) -> Option<&mut (Lease, Duration)> {
        let now = self.now;
        let home = *self.homes.get(&name(instance))?;
        let stored = self.stores[home].get_mut(&name(instance));
        stored.filter(|(lease, deadline)| *deadline > now && lease.state() != LeaseState::Deregistered)
    }

    fn step(&mut self, step: Step) {
        let deadline = self.now + TTL;
        match step {
            Step::Start {
                instance,
                source,
                address,
                services,
            } => {
                self.starts += 1;
                let lease = lease(instance, self.starts, address, services);
                self.homes.insert(name(instance), source);
                self.stores[source].insert(lease.instance.clone(), (lease, deadline));
            }
            Step::Move(instance) => {
                let Some((lease, _)) = self.stored(instance) else {
                    return;
                };
                let mut lease = lease.clone();
                lease.sequence += 1;
                let home = (self.homes[&name(instance)] + 1) % SOURCES;
                self.homes.insert(name(instance), home);
                self.stores[home].insert(name(instance), (lease, deadline));
            }
            Step::Update {
                instance,
                services,
                weight,
                draining,
            } => {
                let Some((lease, until)) = self.stored(instance) else {
                    return;
                };
                *until = deadline;
                lease.sequence += 1;
                lease.weight = weight;
                lease.services = provided(services);
                lease.set_state(if draining {
                    LeaseState::Draining
                } else {
                    LeaseState::Up
                });
            }
            Step::Renew(instance) => {
                let Some((_, until)) = self.stored(instance) else {
                    return;
                };
                *until = deadline;
            }
            Step::Again(instance) => {
                let Some(lease) = self.written.get(&name(instance)) else {
                    return;
                };
                let home = self.homes[&name(instance)];
                self.stores[home].insert(name(instance), (lease.clone(), deadline));
            }
            Step::Deregister(instance) => {
                self.written.remove(&name(instance));
                let short = self.now + Duration::from_secs(3);
                let Some((lease, until)) = self.stored(instance) else {
                    return;
                };
                *until = short;
                lease.sequence += 1;
                lease.set_state(LeaseState::Deregistered);
            }
            Step::Advance(ms) => self.now += Duration::from_millis(ms),
            Step::Read(instance, source) if !self.silent[source] => {
                let live = self
                    .live(source)
                    .into_iter()
                    .find(|live| live.lease.instance == name(instance));
                match live {
                    Some(live) => drop(self.fold.observe(self.at(), source, self.now, live)),
                    None => self.fold.missing(source, self.now, &name(instance)),
                }
                self.earlier[source] = (self.now, self.live(source));
            }
            Step::Sweep(source) if !self.silent[source] => self.sweep(source, self.now, self.live(source)),
            Step::StaleSweep(source) if !self.silent[source] => {
                let (asked, leases) = self.earlier[source].clone();
                self.sweep(source, asked, leases);
            }
            Step::Read(..) | Step::Sweep(_) | Step::StaleSweep(_) => {}
            Step::Flush(source) => {
                self.stores[source].clear();
                if !self.silent[source] {
                    self.rule
                        .discontinuity(source, self.now, Discontinuity::SourceChanged);
                }
            }
            Step::Silence(source) => {
                self.silent[source] = true;
                self.rule.silent(source);
            }
            Step::Speak(source) => self.speak(source),
            Step::Restart => self.restart(),
        }
        for (instance, home) in &self.homes {
            let stored = self.stores[*home].get(instance);
            if let Some((lease, _)) = stored.filter(|(lease, _)| lease.state() != LeaseState::Deregistered) {
                self.written.insert(instance.clone(), lease.clone());
            }
        }
        self.check();
    }

    /// As the pump does it: a source that answers again may have lost what it had.
    fn speak(&mut self, source: usize) {
        if std::mem::take(&mut self.silent[source]) {
            self.rule.answered(source);
            self.rule
                .discontinuity(source, self.now, Discontinuity::Interrupted);
            self.sweep(source, self.now, self.live(source));
        }
    }

    fn sweep(&mut self, source: usize, asked: Duration, leases: Vec<LiveLease>) {
        self.fold.sweep(self.at(), source, asked, leases);
        self.check();
        self.fold.reap(self.at(), &mut self.rule, AGES);
        self.check();
    }

    fn restart(&mut self) {
        let list = |service: &str| {
            let (instances, removed) = self.fold.list(service);
            ServiceList {
                service: service.into(),
                instances,
                removed,
                ..ServiceList::default()
            }
        };
        let lists: Vec<_> = self.fold.services().map(list).collect();
        self.fold = Fold::new();
        self.rule = rule(self.enforced);
        for source in 0..SOURCES {
            self.rule.discontinuity(source, self.now, Discontinuity::Started);
            if self.silent[source] {
                self.rule.silent(source);
            }
        }
        self.losses.clear();
        self.fold.restore(self.at(), lists.iter().collect(), TTL);
    }

    /// Every list is valid, exactly the changed ones are told, and rule R holds.
    fn check(&mut self) {
        let changes = self.fold.take_changes();
        for service in SERVICES {
            let (list, removed) = self.fold.list(service);
            let before = self.seen.insert(service.into(), list.clone()).unwrap_or_default();
            assert!(
                before == list || changes.services.contains_key(service),
                "{service} changed and nobody was told"
            );
            valid(&list, &removed);
            let expired = |(of, removal): &&(String, Removal)| {
                let entry = before.iter().find(|entry| entry.instance == removal.instance);
                let draining = entry.is_some_and(|entry| entry.state() == LeaseState::Draining);
                of == service && removal.cause() == RemovalCause::Expired && !draining
            };
            let lost = changes.removed.iter().filter(expired).count();
            if self.enforced && lost > 0 {
                let losses = self.losses.entry(service.into()).or_default();
                losses.push((self.now, lost, before.len()));
                let window = losses
                    .iter()
                    .filter(|(at, ..)| *at + Duration::from_secs(10) > self.now);
                let (total, base) = window.fold((0, None), |(total, base), (_, lost, before)| {
                    (total + lost, base.or(Some(*before)))
                });
                let base = base.unwrap_or(0);
                assert!(
                    total <= (base / 5).max(1),
                    "{service} lost {total} of {base} within 10 s"
                );
            }
        }
    }

    /// Everybody who lives renews until every hold and every grace is over.
    fn settle(&mut self) {
        for source in 0..SOURCES {
            self.speak(source);
        }
        for _ in 0..60 {
            let now = self.now;
            let forever = now + Duration::from_secs(1_000_000);
            for (source, store) in self.stores.iter_mut().enumerate() {
                store.retain(|instance, (_, deadline)| *deadline > now && self.homes[instance] == source);
                store.values_mut().for_each(|(_, deadline)| *deadline = forever);
            }
            self.now += Duration::from_secs(10);
            for source in 0..SOURCES {
                self.sweep(source, self.now, self.live(source));
            }
            self.check();
        }
    }

    /// What the lists must be, computed from nothing but the leases.
    fn model(&self) -> BTreeMap<String, BTreeSet<(String, u64, u32)>> {
        let live: Vec<Lease> = (0..SOURCES)
            .flat_map(|source| self.live(source))
            .map(|live| live.lease)
            .collect();
        let stays = |lease: &&Lease| lease.state() != LeaseState::Deregistered;
        let mut lists: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
        for lease in live.iter().filter(stays) {
            let newer = |other: &&Lease| {
                other.address == lease.address
                    && (other.incarnation, &other.instance) > (lease.incarnation, &lease.instance)
            };
            if live.iter().filter(stays).any(|other| newer(&other)) {
                continue;
            }
            for service in &lease.services {
                let entry = (lease.instance.clone(), lease.incarnation, lease.weight);
                lists.entry(service.name.clone()).or_default().insert(entry);
            }
        }
        lists
    }

    fn lists(&self) -> BTreeMap<String, BTreeSet<(String, u64, u32)>> {
        let list = |service: &str| {
            let (instances, _) = self.fold.list(service);
            let entry = |entry: ListedInstance| (entry.instance, entry.incarnation, entry.weight);
            (
                service.to_owned(),
                instances.into_iter().map(entry).collect::<BTreeSet<_>>(),
            )
        };
        self.fold
            .services()
            .map(list)
            .filter(|(_, list)| !list.is_empty())
            .collect()
    }
}

fn rule(enforced: bool) -> ShrinkRule {
    let config = ShrinkConfig {
        enforced,
        lease_ttl: TTL,
        share_percent: 20,
        window: Duration::from_secs(10),
        floor_percent: 50,
        max_hold: Duration::from_secs(300),
    };
    let mut rule = ShrinkRule::new(config, SOURCES);
    (0..SOURCES).for_each(|source| rule.answered(source));
    rule
}

fn name(instance: u8) -> String {
    format!("app/{instance:02}")
}

fn provided(services: u8) -> Vec<ProvidedService> {
    let named = SERVICES
        .iter()
        .enumerate()
        .filter(|(bit, _)| services & (1 << bit) != 0);
    named
        .map(|(_, name)| ProvidedService {
            name: (*name).into(),
            ..ProvidedService::default()
        })
        .collect()
}

fn lease(instance: u8, incarnation: u64, address: u8, services: u8) -> Lease {
    Lease {
        instance: name(instance),
        incarnation,
        sequence: 1,
        address: format!("h:{address}"),
        weight: 100,
        services: provided(services),
        state: LeaseState::Up.into(),
        ..Lease::default()
    }
}

fn valid(list: &[ListedInstance], removed: &[Removal]) {
    assert!(
        list.is_sorted_by(|a, b| a.instance < b.instance),
        "each instance once, sorted"
    );
    let addresses: BTreeSet<_> = list.iter().map(|entry| &entry.address).collect();
    assert_eq!(addresses.len(), list.len(), "each address once");
    assert!(removed.len() <= 64);
    assert!(removed.is_sorted_by_key(|removal| removal.at_unix_ms));
    for removal in removed {
        let same = |entry: &&ListedInstance| {
            entry.instance == removal.instance && entry.incarnation == removal.incarnation
        };
        assert!(!list.iter().any(|entry| same(&entry)), "{removal:?} is listed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lists_end_as_the_leases_say(steps in prop::collection::vec(step(), 1..120), enforced in any::<bool>()) {
        let mut run = Run::new(enforced);
        steps.into_iter().for_each(|step| run.step(step));
        run.settle();
        prop_assert_eq!(run.lists(), run.model());
    }
}

#[test]
fn a_newer_instance_on_the_same_address_takes_its_place_and_gives_it_back() {
    let mut run = Run::new(true);
    let start = |instance| Step::Start {
        instance,
        source: 0,
        address: 5,
        services: 1,
    };
    for step in [start(0), start(1), Step::Sweep(0)] {
        run.step(step);
    }
    let (list, _) = run.fold.list("a");
    assert_eq!(
        list.iter()
            .map(|entry| entry.instance.as_str())
            .collect::<Vec<_>>(),
        ["app/01"]
    );
    for step in [Step::Deregister(1), Step::Read(1, 0)] {
        run.step(step);
    }
    let (list, removed) = run.fold.list("a");
    assert_eq!(list[0].instance, "app/00");
    assert_eq!(
        (removed[0].instance.as_str(), removed[0].cause()),
        ("app/01", RemovalCause::Deregistered)
    );
}

#[test]
fn a_restart_replaces_its_former_incarnation() {
    let mut run = Run::new(true);
    let start = || Step::Start {
        instance: 0,
        source: 0,
        address: 5,
        services: 3,
    };
    for step in [start(), Step::Read(0, 0), start(), Step::Read(0, 0)] {
        run.step(step);
    }
    let (list, removed) = run.fold.list("b");
    assert_eq!((list.len(), list[0].incarnation), (1, 2));
    assert_eq!(
        (removed[0].incarnation, removed[0].cause()),
        (1, RemovalCause::Evicted)
    );
}

fn observed(sequence: u64, state: LeaseState, remaining: u64) -> LiveLease {
    let mut lease = lease(0, 1, 5, 1);
    lease.sequence = sequence;
    lease.set_state(state);
    LiveLease {
        lease,
        remaining: Duration::from_secs(remaining),
    }
}

fn moment(seconds: u64) -> Moment {
    Moment {
        elapsed: Duration::from_secs(seconds),
        unix_ms: seconds * 1_000,
    }
}

#[test]
fn a_late_answer_brings_nobody_back_who_left() {
    let mut fold = Fold::new();
    fold.observe(
        moment(1),
        0,
        Duration::from_secs(1),
        observed(1, LeaseState::Up, 15),
    );
    fold.observe(
        moment(2),
        0,
        Duration::from_secs(2),
        observed(2, LeaseState::Deregistered, 3),
    );
    fold.sweep(
        moment(3),
        0,
        Duration::from_secs(1),
        vec![observed(1, LeaseState::Up, 15)],
    );
    let (list, removed) = fold.list("a");
    assert!(list.is_empty());
    assert_eq!(removed[0].cause(), RemovalCause::Deregistered);
}

#[test]
fn nobody_expires_before_its_own_deadline() {
    let (mut fold, mut rule) = (Fold::new(), rule(false));
    fold.observe(moment(0), 0, Duration::ZERO, observed(1, LeaseState::Up, 15));
    for (second, listed) in [(5, 1), (14, 1), (15, 0)] {
        fold.sweep(moment(second), 0, Duration::from_secs(second), Vec::new());
        fold.reap(moment(second), &mut rule, AGES);
        assert_eq!(fold.list("a").0.len(), listed, "after {second} s");
    }
    assert!(fold.is_empty());
}

#[test]
fn a_new_leader_goes_on_from_who_the_last_one_let_go() {
    let (mut fold, mut rule) = (Fold::new(), rule(false));
    let living = |instances: &[u8], remaining| {
        let live = |instance: &u8| LiveLease {
            lease: lease(*instance, 1, *instance, 1),
            remaining: Duration::from_secs(remaining),
        };
        instances.iter().map(live).collect::<Vec<_>>()
    };
    let mut leases = living(&[0], 5);
    leases.extend(living(&[1, 2, 3], 15));
    fold.sweep(moment(0), 0, Duration::ZERO, leases);
    let whole = fold.list("a").0;
    // As a standby it lets 0 go; the leader, by its own count, let go 1.
    fold.sweep(moment(6), 0, Duration::from_secs(6), living(&[2, 3], 15));
    fold.reap(moment(6), &mut rule, AGES);
    assert_eq!(fold.list("a").0, whole[1..]);
    let mut instances = whole.clone();
    let gone = instances.remove(1);
    let published = ServiceList {
        service: "a".into(),
        instances,
        removed: vec![Removal {
            instance: gone.instance,
            incarnation: gone.incarnation,
            cause: RemovalCause::Expired.into(),
            at_unix_ms: 5_000,
        }],
        ..ServiceList::default()
    };
    fold.restore(moment(7), [&published].into_iter().collect(), TTL);
    let (list, removed) = fold.list("a");
    assert_eq!(list, published.instances);
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].instance, name(1));
    // Who stands there by its word alone goes with the rest, a TTL later.
    fold.reap(moment(22), &mut rule, AGES);
    assert_eq!(fold.list("a").0, whole[2..]);
}

#[test]
fn who_left_while_nobody_led_is_named_with_the_reason() {
    let mut before = Fold::new();
    before.observe(moment(0), 0, Duration::ZERO, observed(1, LeaseState::Up, 15));
    let published = ServiceList {
        service: "a".into(),
        instances: before.list("a").0,
        ..ServiceList::default()
    };
    let mut fold = Fold::new();
    fold.sweep(
        moment(9),
        0,
        Duration::from_secs(9),
        vec![observed(2, LeaseState::Deregistered, 20)],
    );
    fold.restore(moment(10), [published].into_iter().collect(), TTL);
    let (list, removed) = fold.list("a");
    assert!(list.is_empty());
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].cause(), RemovalCause::Deregistered);
}

#[test]
fn a_list_knows_better_than_the_last_word_heard_of_one_that_no_source_has() {
    let (mut fold, mut later) = (Fold::new(), Fold::new());
    let live = |services| LiveLease {
        lease: lease(1, 1, 1, services),
        remaining: Duration::from_secs(15),
    };
    // This one heard of the services `a` alone, and then of a source that was emptied; another pump, of `b` alone.
    fold.sweep(moment(0), 0, Duration::ZERO, vec![live(1)]);
    let entry = fold.list(SERVICES[0]).0.remove(0);
    fold.sweep(moment(6), 0, Duration::from_secs(6), Vec::new());
    later.sweep(moment(0), 0, Duration::ZERO, vec![live(2)]);
    let published = [
        ServiceList {
            service: SERVICES[0].into(),
            removed: vec![Removal {
                instance: entry.instance,
                incarnation: entry.incarnation,
                cause: RemovalCause::Deregistered.into(),
                at_unix_ms: 5_000,
            }],
            ..ServiceList::default()
        },
        ServiceList {
            service: SERVICES[1].into(),
            instances: later.list(SERVICES[1]).0,
            ..ServiceList::default()
        },
    ];
    fold.restore(moment(7), published.iter().collect(), TTL);
    assert!(fold.list(SERVICES[0]).0.is_empty());
    assert_eq!(fold.list(SERVICES[1]).0, published[1].instances);
    assert!(fold.list(SERVICES[1]).1.is_empty(), "it has not left");
}

#[test]
fn whose_address_another_has_was_replaced_and_did_not_leave_by_its_word() {
    let mut before = Fold::new();
    before.observe(
        moment(0),
        0,
        Duration::ZERO,
        LiveLease {
            lease: lease(1, 1, 5, 3),
            remaining: Duration::from_secs(15),
        },
    );
    let list = |service: &str| ServiceList {
        service: service.into(),
        instances: before.list(service).0,
        ..ServiceList::default()
    };
    let mut fold = Fold::new();
    fold.observe(
        moment(9),
        0,
        Duration::from_secs(9),
        LiveLease {
            lease: lease(2, 2, 5, 3),
            remaining: Duration::from_secs(15),
        },
    );
    // It reads one list back, and, from a backup, the other.
    fold.restore(moment(10), [list(SERVICES[0])].iter().collect(), TTL);
    let both = [list(SERVICES[0]), list(SERVICES[1])];
    fold.restore(moment(11), both.iter().collect(), TTL);
    for service in &SERVICES[..2] {
        let (listed, removed) = fold.list(service);
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].instance, name(2));
        assert_eq!(removed.len(), 1, "{service}");
        assert_eq!(removed[0].cause(), RemovalCause::Evicted, "{service}");
    }
}

#[test]
fn a_hold_lasts_while_who_is_missing_cannot_be_judged() {
    let mut before = Fold::new();
    let leases = (0..20).map(|instance| LiveLease {
        lease: lease(instance, 1, instance, 1),
        remaining: TTL,
    });
    let leases: Vec<_> = leases.collect();
    before.sweep(moment(0), 0, Duration::ZERO, leases.clone());
    let published = ServiceList {
        service: "a".into(),
        instances: before.list("a").0,
        ..ServiceList::default()
    };
    // Its own hold, of what it found itself before its fold began anew, or an earlier leader's alone.
    for own in [true, false] {
        let mut rule = rule(true);
        if own {
            assert_eq!(rule.admit(Duration::from_secs(100), "a", 40, 30, 0), 8);
        }
        let mut fold = Fold::new();
        fold.restore(moment(200), [&published].into_iter().collect(), TTL);
        rule.inherit_hold(Duration::from_secs(200), "a", 40, Duration::from_secs(100));
        fold.sweep(moment(201), 0, Duration::from_secs(201), leases[..14].to_vec());
        fold.reap(moment(201), &mut rule, AGES);
        assert!(rule.is_held("a"), "six are missing, and have a TTL to show up");
        // One of another beginning is judged before them, and may go.
        let stranger = LiveLease {
            lease: lease(30, 1, 30, 1),
            remaining: Duration::from_secs(5),
        };
        fold.sweep(
            moment(202),
            0,
            Duration::from_secs(202),
            [&leases[..14], &[stranger]].concat(),
        );
        fold.sweep(moment(208), 0, Duration::from_secs(208), leases[..14].to_vec());
        fold.reap(moment(208), &mut rule, AGES);
        assert!(rule.is_held("a"), "own {own}");
        fold.sweep(moment(216), 0, Duration::from_secs(216), leases[..14].to_vec());
        fold.reap(moment(216), &mut rule, AGES);
        assert_eq!(fold.count("a"), 20, "half of 40 stay");
    }
}

#[test]
fn who_ran_out_is_not_taken_back_where_another_has_its_address() {
    let (mut fold, mut rule) = (Fold::new(), rule(true));
    let live = |instance, incarnation| LiveLease {
        lease: lease(instance, incarnation, 5, 1),
        remaining: TTL,
    };
    fold.sweep(moment(0), 0, Duration::ZERO, vec![live(1, 1)]);
    let published = ServiceList {
        service: "a".into(),
        instances: fold.list("a").0,
        ..ServiceList::default()
    };
    // It runs out on one source, and is remembered because the other has an older start of it.
    fold.sweep(moment(1), 1, Duration::from_secs(1), vec![lingering()]);
    fold.sweep(moment(16), 0, Duration::from_secs(16), Vec::new());
    fold.reap(moment(16), &mut rule, AGES);
    assert_eq!(fold.count("a"), 0);
    fold.sweep(moment(17), 0, Duration::from_secs(17), vec![live(2, 2)]);
    fold.restore(moment(18), [&published].into_iter().collect(), TTL);
    let listed = fold.list("a").0;
    assert_eq!(listed.len(), 1, "one has the address: {listed:?}");
    assert_eq!(listed[0].instance, name(2));
}

/// A lease of an older start, that lives longer than the newer one.
fn lingering() -> LiveLease {
    LiveLease {
        lease: lease(1, 0, 5, 1),
        remaining: Duration::from_secs(60),
    }
}
