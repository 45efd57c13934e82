//! What happens to a site: its life, and what breaks. Which of it, when and for how long is chance.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rsf_registry::record::ServiceList;
use tokio::time::sleep;

use crate::judge::Part;
use crate::process::Process;
use crate::redis::Comeback;
use crate::site::{Disk, Site};
use crate::zookeeper::SERVERS;

/// One kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    // Life, which disturbs nobody.
    Start,
    Restart,
    Replace,
    Leave,
    Update,
    Die,
    DieTogether,
    StandStill,
    CutOff,
    StartConsumer,
    RestartConsumer,
    // Redis.
    RedisStalls,
    RedisDies,
    RedisIsFlushed,
    RedisFailsOver,
    RedisRefusesWrites,
    RedisIsSlow,
    NotificationsOff,
    NotificationsLost,
    SubscriptionsEnd,
    // ZooKeeper.
    NoQuorum,
    Wiped,
    Restored,
    ZooKeeperIsSlow,
    WatchesLost,
    ServerBehind,
    SessionExpires,
    Deposed,
    ListEmptied,
    // Pumps.
    PumpDies,
    PumpStops,
    PumpStandsStill,
    PumpCutOff,
    /// Both stores lose all data, and every pump starts anew with its state file.
    AllIsLost,
}

impl Event {
    const ALL: [Event; 34] = [
        Event::Start,
        Event::Restart,
        Event::Replace,
        Event::Leave,
        Event::Update,
        Event::Die,
        Event::DieTogether,
        Event::StandStill,
        Event::CutOff,
        Event::StartConsumer,
        Event::RestartConsumer,
        Event::RedisStalls,
        Event::RedisDies,
        Event::RedisIsFlushed,
        Event::RedisFailsOver,
        Event::RedisRefusesWrites,
        Event::RedisIsSlow,
        Event::NotificationsOff,
        Event::NotificationsLost,
        Event::SubscriptionsEnd,
        Event::NoQuorum,
        Event::Wiped,
        Event::Restored,
        Event::ZooKeeperIsSlow,
        Event::WatchesLost,
        Event::ServerBehind,
        Event::SessionExpires,
        Event::Deposed,
        Event::ListEmptied,
        Event::PumpDies,
        Event::PumpStops,
        Event::PumpStandsStill,
        Event::PumpCutOff,
        Event::AllIsLost,
    ];
}

/// The events of one run.
pub(crate) struct Faults {
    site: Arc<Site>,
    /// Each event as often as it is likely in this run.
    likely: Vec<Event>,
    redis_busy: Arc<AtomicBool>,
    zookeeper_busy: Arc<AtomicBool>,
    lasting: Arc<AtomicUsize>,
    emptied: Mutex<Vec<String>>,
}

impl Faults {
    /// Draws how likely each event is in this run.
    pub(crate) fn draw(site: Arc<Site>) -> Self {
        let mut likely = Vec::new();
        for event in Event::ALL {
            // Most runs know a few faults only: what one does alone is seen best.
            let times = match event {
                Event::Start | Event::Leave | Event::Die | Event::Restart => site.chance.number(1, 6),
                _ => site.chance.number(0, 5).saturating_sub(2),
            };
            likely.extend((0..times).map(|_| event));
        }
        Faults {
            site,
            likely,
            redis_busy: Arc::default(),
            zookeeper_busy: Arc::default(),
            lasting: Arc::default(),
            emptied: Mutex::default(),
        }
    }

    /// Lets one event happen; one that fits nothing that runs does not.
    pub(crate) fn happen(&self) {
        let Some(event) = self.site.chance.pick(&self.likely).copied() else {
            return;
        };
        match event {
            Event::Start
            | Event::Restart
            | Event::Replace
            | Event::Leave
            | Event::Update
            | Event::Die
            | Event::DieTogether
            | Event::StandStill
            | Event::CutOff => self.live(event),
            Event::StartConsumer | Event::RestartConsumer => self.consume(event),
            Event::PumpDies | Event::PumpStops | Event::PumpStandsStill | Event::PumpCutOff => {
                self.pump(event)
            }
            Event::AllIsLost => self.lose_all(),
            Event::NoQuorum
            | Event::Wiped
            | Event::Restored
            | Event::ZooKeeperIsSlow
            | Event::WatchesLost
            | Event::ServerBehind
            | Event::SessionExpires
            | Event::Deposed
            | Event::ListEmptied => {
                self.zookeeper(event);
            }
            _ => self.redis(event),
        }
    }

    /// Whether faults still last.
    pub(crate) fn last(&self) -> bool {
        self.lasting.load(Ordering::Relaxed) > 0
    }

    /// The services whose stored lists were emptied behind the pump's back: only a change of them puts that right.
    pub(crate) fn emptied(&self) -> Vec<String> {
        self.emptied.lock().clone()
    }

    fn live(&self, event: Event) {
        let (site, chance) = (&self.site, &self.site.chance);
        if event == Event::Start {
            return site.start_new(self.some_services(), None);
        }
        let ids: Vec<String> = site.instances.lock().keys().cloned().collect();
        let Some(id) = chance.pick(&ids).cloned() else {
            return;
        };
        match event {
            Event::Leave => site.leave(&id),
            Event::Update => site.update(&id, self.some_services()),
            Event::Die => drop(site.kill_instance(&id)),
            Event::Restart => {
                if let Some(former) = site.kill_instance(&id) {
                    let (site, pause) = (site.clone(), chance.seconds(0, 25));
                    self.last_for(pause, move || site.start_again(&former));
                }
            }
            Event::Replace => {
                if let Some(former) = site.kill_instance(&id) {
                    site.start_new(former.services.clone(), Some(former.address.clone()));
                }
            }
            Event::DieTogether => self.die_together(),
            _ => {
                let instances = site.instances.lock();
                let start = instances.get(&id);
                let start = start.map(|instance| (instance.process.clone(), instance.incarnation()));
                drop(instances);
                if let Some((process, incarnation)) = start {
                    self.trouble(event, id, process, incarnation);
                }
            }
        }
    }

    fn trouble(&self, event: Event, id: String, process: Arc<Process>, incarnation: u64) {
        let site = self.site.clone();
        let still = event == Event::StandStill;
        let set = move |on: bool| {
            if still {
                process.freeze(on)
            } else {
                process.cut("redis", on)
            }
            let word = match (still, on) {
                (true, true) => "stands still",
                (true, false) => "goes on",
                (false, true) => "is cut off",
                (false, false) => "is connected again",
            };
            site.judge.change(&id, word, |life| {
                // It may have been started anew meanwhile.
                if life.incarnation == incarnation {
                    match still {
                        true => life.set_still(on),
                        false => life.set_cut(on),
                    }
                }
            });
        };
        set(true);
        self.last_for(self.site.chance.seconds(1, 30), move || set(false));
    }

    /// Most of one service die in one moment.
    fn die_together(&self) {
        let (site, chance) = (&self.site, &self.site.chance);
        let Some(service) = chance.pick(&site.services).cloned() else {
            return;
        };
        let share = chance.number(50, 90);
        let ids: Vec<String> = {
            let instances = site.instances.lock();
            let provides = instances
                .values()
                .filter(|instance| instance.services.contains(&service));
            provides.map(|instance| instance.id.clone()).collect()
        };
        let whole = site.judge.whole(&service).filter(|whole| *whole == ids.len());
        let victims: Vec<String> = ids.into_iter().filter(|_| chance.happens(share)).collect();
        // One may always leave: it takes two to begin a hold.
        if let Some(before) = whole
            && victims.len() * 2 > before.max(2)
        {
            site.judge.mass_death(&service, before);
        }
        for id in victims {
            drop(site.kill_instance(&id));
        }
    }

    fn consume(&self, event: Event) {
        let (site, chance) = (&self.site, &self.site.chance);
        let names: Vec<String> = site.consumers.lock().keys().cloned().collect();
        if event == Event::StartConsumer && names.len() < 4 {
            return site.start_consumer(&format!("c{}", site.next()));
        }
        let Some(name) = chance.pick(&names).cloned() else {
            return;
        };
        let disk = match chance.number(1, 10) {
            1..=6 => Disk::Stays,
            7..=8 => Disk::Damaged,
            _ => Disk::Lost,
        };
        site.end_consumer(&name, disk);
        let (site, pause) = (site.clone(), chance.seconds(0, 10));
        self.last_for(pause, move || site.start_consumer(&name));
    }

    fn redis(&self, event: Event) {
        let (site, chance, redis) = (&self.site, &self.site.chance, self.site.redis.clone());
        match event {
            Event::RedisIsFlushed => {
                redis.flush();
                return site.judge.blow(Part::Redis, "is flushed");
            }
            Event::SubscriptionsEnd => {
                redis.end_subscriptions();
                return site.judge.blow(Part::Redis, "ends all subscriptions");
            }
            Event::RedisFailsOver => {
                redis.promote(chance.millis(0, 8_000));
                return site.judge.blow(Part::Redis, "fails over to a replica");
            }
            _ => {}
        }
        if self.redis_busy.swap(true, Ordering::Relaxed) {
            return;
        }
        let pause = chance.seconds(0, if chance.happens(20) { 60 } else { 20 });
        let busy = self.redis_busy.clone();
        let set: Box<dyn Fn(bool) + Send> = match event {
            Event::RedisStalls => Box::new(move |on| redis.stall(on)),
            Event::RedisRefusesWrites => Box::new(move |on| redis.set_writable(!on)),
            Event::RedisIsSlow => Box::new(move |on| redis.set_slow(on)),
            Event::NotificationsLost => Box::new(move |on| redis.set_deaf(on)),
            Event::NotificationsOff => Box::new(move |on| redis.set_notifies(!on)),
            _ => {
                let comebacks = [Comeback::Whole, Comeback::Empty, Comeback::Dump];
                let how = chance.pick(&comebacks).copied().unwrap_or(Comeback::Empty);
                site.trace.note("redis", format_args!("will come back {how:?}"));
                Box::new(move |on| if on { redis.kill() } else { redis.come_back(how) })
            }
        };
        self.fault(Part::Redis, format!("{event:?}"), pause, move |on| {
            set(on);
            busy.store(on, Ordering::Relaxed);
        });
    }

    fn zookeeper(&self, event: Event) {
        let (site, chance, zookeeper) = (&self.site, &self.site.chance, self.site.zookeeper.clone());
        match event {
            Event::Wiped => {
                zookeeper.wipe();
                return site.judge.blow(Part::ZooKeeper, "is wiped");
            }
            Event::Deposed => {
                zookeeper.depose();
                self.stir();
                return site.judge.blow(Part::ZooKeeper, "loses the leader's node");
            }
            Event::ListEmptied => return self.empty_a_list(),
            Event::SessionExpires => {
                let pumps: Vec<_> = site.pumps.lock().values().map(|pump| pump.link.clone()).collect();
                let consumers: Vec<_> = site.consumers.lock().values().map(|c| c.link.clone()).collect();
                let links: Vec<_> = pumps.into_iter().chain(consumers).collect();
                if let Some(link) = chance.pick(&links) {
                    zookeeper.expire(link);
                    site.judge.blow(
                        Part::ZooKeeper,
                        &format!("ends the session of {}", link.process.name()),
                    );
                }
                return;
            }
            _ => {}
        }
        if self.zookeeper_busy.swap(true, Ordering::Relaxed) {
            return;
        }
        let pause = chance.seconds(0, if chance.happens(20) { 60 } else { 20 });
        let busy = self.zookeeper_busy.clone();
        let set: Box<dyn Fn(bool) + Send> = match event {
            Event::NoQuorum => Box::new(move |on| zookeeper.set_quorum(!on)),
            Event::ZooKeeperIsSlow => Box::new(move |on| zookeeper.set_slow(on)),
            Event::WatchesLost => Box::new(move |on| zookeeper.set_watches_lost(on)),
            Event::Restored => Box::new(move |on| {
                if on {
                    zookeeper.back_up()
                } else {
                    zookeeper.restore()
                }
            }),
            _ => {
                let (server, lag) = (chance.index(SERVERS - 1), chance.seconds(1, 10));
                Box::new(move |on| zookeeper.set_lag(server, if on { lag } else { Duration::ZERO }))
            }
        };
        self.fault(Part::ZooKeeper, format!("{event:?}"), pause, move |on| {
            set(on);
            busy.store(on, Ordering::Relaxed);
        });
    }

    /// Somebody writes an empty list that does not say why, in the place of a good one.
    fn empty_a_list(&self) {
        let (site, chance) = (&self.site, &self.site.chance);
        let Some(service) = chance.pick(&site.services) else {
            return;
        };
        let Some(list) = site.zookeeper.list(service) else {
            return;
        };
        site.zookeeper.plant(&ServiceList {
            instances: Vec::new(),
            removed: Vec::new(),
            ..ServiceList::clone(&list)
        });
        self.emptied.lock().push(service.clone());
        site.judge.tampered(service);
        site.judge
            .blow(Part::ZooKeeper, &format!("has an empty list of {service}"));
    }

    /// A site is built again without its data. The pumps come back while the instances still have to say that they live.
    fn lose_all(&self) {
        let (site, chance) = (&self.site, &self.site.chance);
        site.zookeeper.wipe();
        site.judge.blow(Part::ZooKeeper, "is wiped");
        let names: Vec<String> = site.pumps.lock().keys().cloned().collect();
        for name in names {
            let at = site.clone();
            let what = format!("{name} is built again");
            self.fault(Part::Pump, what, chance.seconds(0, 4), move |on| match on {
                true => at.kill_pump(&name),
                false => at.start_pump(&name),
            });
        }
        let (redis, judge) = (site.redis.clone(), site.judge.clone());
        self.last_for(chance.seconds(0, 4), move || {
            redis.flush();
            judge.blow(Part::Redis, "is flushed");
        });
    }

    /// Something changes just now, while a leader may not know yet that it was deposed.
    fn stir(&self) {
        let (site, chance) = (&self.site, &self.site.chance);
        for _ in 0..chance.number(0, 3) {
            let (site, services) = (site.clone(), self.some_services());
            self.last_for(chance.millis(0, 1_500), move || site.start_new(services, None));
        }
    }

    fn pump(&self, event: Event) {
        let (site, chance) = (&self.site, &self.site.chance);
        let names: Vec<String> = site.pumps.lock().keys().cloned().collect();
        let Some(name) = chance.pick(&names).cloned() else {
            return;
        };
        let pause = chance.seconds(0, 25);
        let process = site.pumps.lock().get(&name).map(|pump| pump.process.clone());
        let Some(process) = process else { return };
        let (at, cut) = (
            site.clone(),
            if chance.happens(50) { "redis" } else { "zookeeper" },
        );
        let what = format!("{name} {event:?}");
        self.fault(Part::Pump, what, pause, move |on| match (event, on) {
            (Event::PumpDies, true) => at.kill_pump(&name),
            (Event::PumpStops, true) => at.stop_pump(&name),
            (Event::PumpDies | Event::PumpStops, false) => at.start_pump(&name),
            (Event::PumpStandsStill, on) => process.freeze(on),
            (_, on) => process.cut(cut, on),
        });
    }

    /// One, two or all services.
    fn some_services(&self) -> Vec<String> {
        let chance = &self.site.chance;
        let share = chance.number(20, 100);
        let mut services: Vec<String> = self.site.services.clone();
        services.retain(|_| chance.happens(share));
        if services.is_empty() {
            services.extend(chance.pick(&self.site.services).cloned());
        }
        services
    }

    /// A fault that begins now and ends after `pause`.
    fn fault(&self, part: Part, what: String, pause: Duration, set: impl Fn(bool) + Send + 'static) {
        self.site.judge.fault(part, &what, true);
        set(true);
        let judge = self.site.judge.clone();
        self.last_for(pause, move || {
            set(false);
            judge.fault(part, &what, false);
        });
    }

    fn last_for(&self, pause: Duration, end: impl FnOnce() + Send + 'static) {
        let lasting = self.lasting.clone();
        lasting.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            sleep(pause).await;
            end();
            lasting.fetch_sub(1, Ordering::Relaxed);
        });
    }
}
