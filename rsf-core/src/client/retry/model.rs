//! All interleavings of two attempts, the moment that the second one is due, the deadline and the caller's giving up, run
//! through the client's own stack in virtual time and compared with a model of what ought to come of them.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::call::RawMessage;
use crate::client::{Channel, Consumer, ConsumerParts};
use crate::control::{Instance, Scope, StaticControlPlane};
use crate::metadata::Metadata;
use crate::method::{MethodDescriptor, ServiceDescriptor};
use crate::metrics::Metrics;
use crate::outcome::Reason;
use crate::policy_book::PolicyBook;
use crate::runtime::IoRuntime;
use crate::status::Status;
use crate::wire::{
    ConnectError, Connection, ConnectionState, Fate, Slot, Target, UnaryReply, UnaryRequest, Wire, WireError,
};

const SERVICE: &str = "test.v1.Model";
/// Milliseconds between two events.
const STEP: u64 = 10;
/// Milliseconds of the pause that the provider asks for after a failure: another event may fall into it.
const PAUSE: u64 = 15;
/// What timers may be late.
const LATE: u64 = 3;

/// How an attempt ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Success,
    /// Unavailable, with a pause before the next attempt.
    Failure,
    /// The handler's own word.
    Answer,
    /// Refused unseen: costs no credit, and even what is not idempotent may follow.
    Refused,
}

const ENDS: [End; 4] = [End::Success, End::Failure, End::Answer, End::Refused];

/// One interleaving. Times are milliseconds after the call's beginning, each another one.
#[derive(Debug, Clone, Copy)]
struct Case {
    /// The second attempt is due as a hedge, not because the first one's time is over.
    hedges: bool,
    due: u64,
    first: (u64, End),
    /// When it begins later than this, it ends at once.
    second: (u64, End),
    deadline: u64,
    cancel: u64,
    credit: bool,
    idempotent: bool,
}

/// What comes of a call.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    Reply { of_second: bool },
    Error(Reason),
    Cancelled,
}

#[derive(Debug, PartialEq)]
struct Expected {
    result: Outcome,
    at: u64,
    sent: usize,
    taken: u64,
    retries: u64,
    hedges: u64,
}

impl Case {
    fn all() -> Vec<Case> {
        let mut cases = Vec::new();
        for order in permutations() {
            let [due, first, second, deadline, cancel] = order.map(|rank| rank * STEP);
            for bits in 0..8 {
                let [hedges, credit, idempotent] = [1, 2, 4].map(|bit| bits & bit != 0);
                for (one, two) in ENDS.iter().flat_map(|one| ENDS.map(|two| (*one, two))) {
                    cases.push(Case {
                        hedges,
                        due,
                        first: (first, one),
                        second: (second, two),
                        deadline,
                        cancel,
                        credit,
                        idempotent,
                    });
                }
            }
        }
        cases.retain(Case::matters);
        cases
    }

    /// Whether no other case is the same one. How a second attempt ends that never begins makes no difference, nor does what
    /// the call's end keeps from happening.
    fn matters(&self) -> bool {
        let stop = self.deadline.min(self.cancel);
        let times = [self.due, self.first.0, self.second.0, self.deadline, self.cancel];
        let after = times.into_iter().filter(|time| *time > stop);
        let unseen = |(at, end): (u64, End)| at > stop && end != End::Success;
        let begins = self.expected().sent == 2;
        after.is_sorted()
            && !unseen(self.first)
            && !unseen(self.second)
            && (begins || self.second.1 == End::Success)
    }

    /// When the second attempt begins and whether it takes credit, were nothing else to end the call.
    fn second_begins(&self) -> Option<(u64, bool)> {
        let (ended, end) = self.first;
        if self.due < ended && self.idempotent && self.credit {
            return Some((self.due, true));
        }
        let (at, takes) = match end {
            End::Success | End::Answer => return None,
            End::Failure if self.idempotent && self.credit => (ended + PAUSE, true),
            End::Failure => return None,
            End::Refused => (ended, false),
        };
        // A pause past the deadline is not made.
        (at < self.deadline).then_some((at, takes))
    }

    /// The model.
    fn expected(&self) -> Expected {
        let stop = self.deadline.min(self.cancel);
        let second = self.second_begins();
        let ends = second.map(|(begins, _)| self.second.0.max(begins));
        let success = |at: u64, end| (end == End::Success).then_some(at);
        let won_by_first = success(self.first.0, self.first.1).filter(|at| *at < stop);
        let won_by_second = ends
            .and_then(|at| success(at, self.second.1))
            .filter(|at| *at < stop);
        let lost = self.first.0.max(ends.unwrap_or(0));
        let (result, at) = match (won_by_first, won_by_second) {
            (Some(first), second) if second.is_none_or(|second| first < second) => {
                (Outcome::Reply { of_second: false }, first)
            }
            (_, Some(second)) => (Outcome::Reply { of_second: true }, second),
            _ if lost < stop => (Outcome::Error(self.failure(ends)), lost),
            _ if self.cancel < self.deadline => (Outcome::Cancelled, self.cancel),
            _ => (Outcome::Error(Reason::Deadline), self.deadline),
        };
        // It has begun unless the call was over by then.
        let begun = second.filter(|(begins, _)| *begins < at || *begins == at && ends == Some(at));
        let as_hedge = begun.is_some_and(|(begins, _)| self.hedges && begins == self.due);
        Expected {
            result,
            at,
            sent: 1 + usize::from(begun.is_some()),
            taken: u64::from(begun.is_some_and(|(_, takes)| takes)),
            retries: u64::from(begun.is_some() && !as_hedge),
            hedges: u64::from(as_hedge),
        }
    }

    /// An answer is told before any other failure, else the later one.
    fn failure(&self, second_ends: Option<u64>) -> Reason {
        let mut failures = vec![self.first];
        failures.extend(second_ends.map(|at| (at, self.second.1)));
        failures.sort_by_key(|(at, _)| *at);
        let answer = failures.iter().rfind(|(_, end)| *end == End::Answer);
        match answer.or(failures.last()) {
            Some((_, End::Answer)) => Reason::Handler,
            Some((_, End::Refused)) => Reason::Refused,
            _ => Reason::Unavailable,
        }
    }

    fn policy(&self) -> String {
        let due = match self.hedges {
            true => format!(r#""retry":{{"hedge_delay_ms":{},"#, self.due),
            false => format!(r#""attempt_timeout_ms":{},"retry":{{"#, self.due),
        };
        let credit = if self.credit { 1 } else { 0 };
        format!(
            r#"{{"call":{{{due}"attempts":2,"backoff_ms":0,"budget_percent":0,"budget_per_second":{credit}}},
                "node_breaker":{{"enabled":false}}}}}}"#
        )
    }
}

fn permutations() -> Vec<[u64; 5]> {
    let mut out = Vec::new();
    for number in 0..5u64.pow(5) {
        let ranks = [0, 1, 2, 3, 4].map(|place| number / 5u64.pow(place) % 5 + 1);
        if (1..=5).all(|rank| ranks.contains(&rank)) {
            out.push(ranks);
        }
    }
    out
}

/// A wire whose attempts end as the case says.
struct Scripted {
    case: Case,
    begun: Mutex<Option<Instant>>,
    /// One for each attempt; `None` once it has ended or was cancelled.
    under_way: Mutex<Vec<Option<std::pin::Pin<Box<Sleep>>>>>,
    state: watch::Sender<ConnectionState>,
}

/// The wire and its connections, which are all one.
struct Line(Arc<Scripted>);

impl Wire for Line {
    fn connect(&self, _: &Target) -> BoxFuture<'static, Result<Arc<dyn Connection>, ConnectError>> {
        let line = Line(self.0.clone());
        Box::pin(async move { Ok(Arc::new(line) as _) })
    }
}

impl Connection for Line {
    fn send(&self, request: &UnaryRequest<'_>) -> Slot {
        let mut under_way = self.0.under_way.lock();
        let place = under_way.len();
        assert_eq!(place as u32, request.previous_attempts);
        let ends = [self.0.case.first, self.0.case.second][place].0;
        let begun = self.0.begun.lock().unwrap();
        under_way.push(Some(Box::pin(sleep_until(begun + ms(ends)))));
        Slot(place)
    }

    fn poll(&self, slot: Slot, cx: &mut Context<'_>) -> Poll<Result<UnaryReply, WireError>> {
        let mut under_way = self.0.under_way.lock();
        let attempt = under_way[slot.0].as_mut().unwrap();
        std::task::ready!(attempt.as_mut().poll(cx));
        under_way[slot.0] = None;
        let end = [self.0.case.first, self.0.case.second][slot.0].1;
        let result = match end {
            End::Success => Ok(Bytes::from(vec![slot.0 as u8])),
            End::Failure => Err(Status::unavailable("").retry_after(ms(PAUSE))),
            End::Answer => Err(Status::not_found("")),
            End::Refused => {
                return Poll::Ready(Err(WireError {
                    fate: Fate::Refused,
                    reason: String::new(),
                }));
            }
        };
        let metadata = Metadata::new();
        Poll::Ready(Ok(UnaryReply { result, metadata }))
    }

    fn cancel(&self, slot: Slot) {
        let cancelled = self.0.under_way.lock()[slot.0].take();
        assert!(cancelled.is_some(), "cancelled twice, or after its end");
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.0.state.subscribe()
    }

    fn http(
        &self,
        _: http::Request<tonic::body::Body>,
    ) -> BoxFuture<'static, Result<http::Response<tonic::body::Body>, WireError>> {
        Box::pin(std::future::pending())
    }

    fn close(&self) {}
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A consumer of two instances at the ends of the scripted line.
async fn consumer(case: Case, line: &Arc<Scripted>) -> (Consumer, Channel, Arc<Metrics>) {
    let runtime = IoRuntime::shared(tokio::runtime::Handle::current());
    let control = Arc::new(StaticControlPlane::new());
    let instances = ["one:1", "two:1"].map(|address| Instance::at("model", address));
    control.set_instances(SERVICE, instances.to_vec());
    control.set_policy(&Scope::Service(SERVICE.to_owned()), 1, &case.policy());
    let metrics = Arc::new(Metrics::register(&prometheus::Registry::new()).unwrap());
    let consumer = Consumer::new(ConsumerParts {
        application: "tester".to_owned(),
        namespace: "test".to_owned(),
        zone: String::new(),
        instance: String::new(),
        runtime: runtime.clone(),
        wire: Arc::new(Line(line.clone())),
        control: control.clone(),
        policies: PolicyBook::new(control, runtime, metrics.policies_refused.clone()),
        metrics: metrics.clone(),
        interceptors: Default::default(),
        token: Default::default(),
        balancers: Default::default(),
    });
    let method = MethodDescriptor {
        idempotent: case.idempotent,
        ..MethodDescriptor::plain(SERVICE, "Get")
    };
    let service = ServiceDescriptor {
        name: SERVICE.into(),
        methods: vec![method].into(),
        schema: Vec::new().into(),
    };
    let channel = consumer.channel(&service, "");
    let prepared = || {
        let view = channel.view();
        let connected = view.instances.iter().filter(|instance| instance.connected);
        let governed = view
            .policies
            .values()
            .all(|policy| policy.call.retry.attempts == 2);
        connected.count() == 2 && governed
    };
    while !prepared() {
        sleep(ms(1)).await;
    }
    (consumer, channel, metrics)
}

/// Runs a case through the stack and tells what came of it.
async fn run(case: Case) -> Expected {
    let line = Arc::new(Scripted {
        case,
        begun: Mutex::default(),
        under_way: Mutex::default(),
        state: watch::Sender::new(ConnectionState::Ready),
    });
    let (_consumer, channel, metrics) = consumer(case, &line).await;
    let begun = Instant::now();
    *line.begun.lock() = Some(begun);
    let call = channel.call_raw(0, Bytes::new(), Metadata::new());
    let call = call.timeout(ms(case.deadline)).into_future();
    let outcome = {
        let mut call = Box::pin(call);
        tokio::select! {
            biased;
            outcome = &mut call => Some(outcome),
            () = sleep_until(begun + ms(case.cancel)) => None,
        }
    };
    let at = begun.elapsed().as_millis() as u64;
    let result = match outcome {
        Some(Ok(reply)) => {
            let RawMessage(bytes) = reply.into_inner();
            Outcome::Reply {
                of_second: *bytes == [1],
            }
        }
        Some(Err(error)) => Outcome::Error(error.reason()),
        None => Outcome::Cancelled,
    };
    // Long enough for everything that should not happen any more.
    sleep_until(begun + ms(7 * STEP)).await;
    let under_way = line.under_way.lock();
    let left = under_way.iter().flatten().count();
    assert_eq!(left, 0, "attempts go on after the call's end: {case:?}");
    let pending: u32 = channel
        .view()
        .instances
        .iter()
        .map(|instance| instance.pending)
        .sum();
    assert_eq!(pending, 0, "{case:?}");
    let snapshot = channel.state().snapshot.get().unwrap();
    Expected {
        result,
        at,
        sent: under_way.len(),
        taken: snapshot.budget.taken(),
        retries: metrics.retries.get(),
        hedges: metrics.hedges.get(),
    }
}

#[test]
fn every_interleaving_of_two_attempts_ends_as_the_model_says() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let cases = Case::all();
    let all = cases.len();
    let mut wrong = Vec::new();
    let mut late_firsts = 0;
    for case in cases {
        let expected = case.expected();
        let mut found = runtime.block_on(run(case));
        if (expected.at..=expected.at + LATE).contains(&found.at) {
            found.at = expected.at;
        }
        if found != expected {
            wrong.push(format!("{case:?}\n  expected {expected:?}\n  found    {found:?}"));
        }
        let first_won = expected.result == Outcome::Reply { of_second: false };
        late_firsts += u32::from(first_won && expected.sent == 2);
    }
    let few = &wrong[..wrong.len().min(5)];
    assert!(
        wrong.is_empty(),
        "{} are wrong, such as\n{}",
        wrong.len(),
        few.join("\n")
    );
    assert!(
        all > 1000 && late_firsts > 20,
        "{all} cases, {late_firsts} of them with a late first success"
    );
}
