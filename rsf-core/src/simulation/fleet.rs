//! The discrete events of a run: calls come, wait, are handled, fail, are tried again.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::endpoints;
use super::report::{Outcome, Record};
use super::scenario::{Scenario, Trouble};
use crate::client::simulated::{Endpoint, Observed, Pool, pool};
use crate::moment::Moment;

/// Tries of one call.
const ATTEMPTS: usize = 3;
/// How soon a failing instance answers.
const FAILURE: Duration = Duration::from_micros(100);
/// A consumer hears an instance's load this often at most.
const REPORT_PAUSE: Duration = Duration::from_millis(100);
/// So often it is noted how the calls are spread.
const LOOK: Duration = Duration::from_millis(10);

/// Runs `scenario` with chance from `seed`.
pub fn simulate(scenario: &Scenario, seed: u64) -> Outcome {
    // The balancer's chance, and below the world's own: the same calls come whoever balances them.
    fastrand::seed(seed);
    let mut fleet = Fleet::new(scenario, seed);
    fleet.run();
    fleet.record.outcome(scenario)
}

struct Fleet<'a> {
    scenario: &'a Scenario,
    world: Rng,
    begin: Moment,
    now: Duration,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    /// Orders events of one moment; names what they are about.
    number: u64,
    calls: HashMap<u64, Call>,
    servers: Vec<Server>,
    consumers: Vec<Consumer>,
    record: Record,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A call comes.
    Arrival,
    /// The attempt of this call at this server is answered; whether it failed.
    Answer(u64, usize, bool),
    /// The last instance joins.
    Join,
    /// A look at what is under way.
    Look,
}

struct Consumer {
    pool: Pool,
    endpoints: Vec<Arc<Endpoint>>,
    /// By the endpoint's address in memory.
    places: HashMap<*const Endpoint, usize>,
    /// When it last heard each server's load.
    heard: Vec<Duration>,
}

struct Server {
    weight: u32,
    workers: usize,
    /// Multiple of the usual time.
    slowness: f64,
    fails: bool,
    /// Calls until it is warm, of how many.
    cold: (u32, u32),
    running: usize,
    queue: VecDeque<u64>,
}

struct Call {
    consumer: usize,
    begun: Duration,
    /// When the attempt that is under way began.
    sent: Duration,
    tried: Vec<Arc<Endpoint>>,
}

impl<'a> Fleet<'a> {
    fn new(scenario: &'a Scenario, seed: u64) -> Self {
        let begin = Moment::now().whole();
        let servers = scenario.weights.iter().map(|weight| Server {
            weight: *weight,
            workers: (scenario.workers * *weight as usize / 100).max(1),
            slowness: 1.0,
            fails: false,
            cold: (0, 0),
            running: 0,
            queue: VecDeque::new(),
        });
        let mut servers: Vec<_> = servers.collect();
        let last = servers.len() - 1;
        match scenario.trouble {
            Trouble::None => {}
            Trouble::Slow(times) => servers[last].slowness = times,
            Trouble::FailsFast => servers[last].fails = true,
            Trouble::Cold(calls) => servers[last].cold = (calls, calls),
            Trouble::Uneven => servers
                .iter_mut()
                .step_by(2)
                .for_each(|server| server.slowness = 2.0),
        }
        let listed = match scenario.trouble {
            Trouble::Cold(_) => last,
            _ => servers.len(),
        };
        let consumer = |_| {
            let endpoints = endpoints(servers.len());
            Consumer {
                pool: pool(members(&endpoints[..listed], &servers), &scenario.rules),
                places: endpoints.iter().map(Arc::as_ptr).zip(0..).collect(),
                endpoints,
                heard: vec![Duration::ZERO; servers.len()],
            }
        };
        Fleet {
            world: Rng::with_seed(seed),
            begin,
            now: Duration::ZERO,
            events: BinaryHeap::new(),
            number: 0,
            calls: HashMap::new(),
            consumers: (0..scenario.consumers).map(consumer).collect(),
            servers,
            record: Record::default(),
            scenario,
        }
    }

    fn run(&mut self) {
        self.plan(Duration::ZERO, Event::Arrival);
        self.plan(self.scenario.settled, Event::Look);
        if matches!(self.scenario.trouble, Trouble::Cold(_)) {
            self.plan(self.scenario.settled, Event::Join);
        }
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            self.now = at;
            let over = at >= self.scenario.time;
            match event {
                Event::Arrival if !over => self.arrival(),
                Event::Look if !over => self.look(),
                Event::Arrival | Event::Look => {}
                Event::Answer(call, server, failed) => self.answer(call, server, failed),
                Event::Join => self.join(),
            }
        }
    }

    fn plan(&mut self, at: Duration, event: Event) {
        self.number += 1;
        self.events.push(Reverse((at, self.number, event)));
    }

    fn moment(&self) -> Moment {
        self.begin + self.now
    }

    /// Calls come at random moments (Poisson), to random consumers.
    fn arrival(&mut self) {
        let capacity: f64 = self.servers.iter().map(Server::capacity).sum();
        let rate = capacity * self.scenario.utilization / self.scenario.service.as_secs_f64();
        let next = self.now + Duration::from_secs_f64(self.exponential() / rate);
        self.plan(next, Event::Arrival);
        let consumer = self.world.usize(..self.consumers.len());
        self.number += 1;
        let call = Call {
            consumer,
            begun: self.now,
            sent: self.now,
            tried: Vec::new(),
        };
        self.calls.insert(self.number, call);
        self.attempt(self.number);
    }

    fn attempt(&mut self, number: u64) {
        let now = self.moment();
        let Some(call) = self.calls.get_mut(&number) else {
            return;
        };
        let consumer = &self.consumers[call.consumer];
        let Some(endpoint) = consumer.pool.pick(None, &call.tried, now) else {
            return;
        };
        let place = consumer.places[&Arc::as_ptr(&endpoint)];
        endpoint.vitals.enter();
        call.sent = self.now;
        call.tried.push(endpoint);
        if self.now >= self.scenario.settled {
            self.record.attempt(place + 1 == self.servers.len());
        }
        let server = &mut self.servers[place];
        if server.fails {
            self.plan(self.now + FAILURE, Event::Answer(number, place, true));
        } else if server.running < server.workers {
            self.handle(number, place);
        } else {
            server.queue.push_back(number);
        }
    }

    fn handle(&mut self, number: u64, place: usize) {
        let chance = self.exponential();
        let server = &mut self.servers[place];
        server.running += 1;
        let (left, all) = server.cold;
        server.cold.0 = left.saturating_sub(1);
        let cold = 19.0 * f64::from(left) / f64::from(all.max(1));
        let took = self.scenario.service.as_secs_f64() * chance * server.slowness * (1.0 + cold);
        let done = self.now + Duration::from_secs_f64(took);
        self.plan(done, Event::Answer(number, place, false));
    }

    fn answer(&mut self, number: u64, place: usize, failed: bool) {
        let now = self.moment();
        if let Some(call) = self.calls.get(&number) {
            let consumer = &mut self.consumers[call.consumer];
            let vitals = &consumer.endpoints[place].vitals;
            let observed = if failed {
                Observed::Failed
            } else {
                Observed::Answered
            };
            vitals.leave();
            vitals.observe(now, self.now - call.sent, observed);
            let due = self.now >= consumer.heard[place] + REPORT_PAUSE;
            if self.scenario.reports && due && !failed {
                consumer.heard[place] = self.now;
                vitals.report_load(now, self.servers[place].load());
            }
            if failed && call.tried.len() < ATTEMPTS {
                self.attempt(number);
            } else if let Some(call) = self.calls.remove(&number)
                && call.begun >= self.scenario.settled
            {
                self.record.call(self.now - call.begun, !failed);
            }
        }
        if !failed {
            self.servers[place].running -= 1;
            if let Some(waiting) = self.servers[place].queue.pop_front() {
                self.handle(waiting, place);
            }
        }
    }

    /// The control plane lists the last instance: consumers build their next snapshot, and know it as new.
    fn join(&mut self) {
        let now = self.moment();
        for consumer in &mut self.consumers {
            let last = consumer.endpoints.last_mut().and_then(Arc::get_mut);
            let last = last.expect("no pool has it before it joins");
            last.vitals.begin_warm_up_at(now);
            let members = members(&consumer.endpoints, &self.servers);
            consumer.pool = pool(members, &self.scenario.rules);
        }
    }

    /// Notes how far each instance is from the load that an ideal spread would give it.
    fn look(&mut self) {
        let under_way = |server: &Server| (server.running + server.queue.len()) as f64;
        let all: f64 = self.servers.iter().map(under_way).sum();
        let weight: f64 = self.servers.iter().map(|server| f64::from(server.weight)).sum();
        if all > 0.0 {
            for server in &self.servers {
                let ideal = all * f64::from(server.weight) / weight;
                self.record.spread(under_way(server) / ideal);
            }
        }
        self.plan(self.now + LOOK, Event::Look);
    }

    fn exponential(&mut self) -> f64 {
        -(1.0 - self.world.f64()).ln()
    }
}

impl Server {
    fn capacity(&self) -> f64 {
        self.workers as f64 / if self.slowness <= 2.0 { self.slowness } else { 1.0 }
    }

    fn load(&self) -> f32 {
        (self.running + self.queue.len()) as f32 / self.workers as f32
    }
}

fn members(endpoints: &[Arc<Endpoint>], servers: &[Server]) -> Vec<(Arc<Endpoint>, u32)> {
    let weights = servers.iter().map(|server| server.weight);
    endpoints.iter().cloned().zip(weights).collect()
}
