//! What opens and closes a method's breaker, one call after the other and between threads.

use super::*;

const GOOD: Ending = Ending::Ran(Verdict {
    error: false,
    slow: false,
});
const ERROR: Ending = Ending::Ran(Verdict {
    error: true,
    slow: false,
});
const SLOW: Ending = Ending::Ran(Verdict {
    error: false,
    slow: true,
});

fn rules() -> Rules {
    Rules {
        enabled: true,
        min_calls: 10,
        slow_call_ms: Some(100),
        ..Rules::default()
    }
}

fn circuit() -> Circuit {
    Circuit::new(&rules(), MethodBreakerMetrics::unregistered())
}

fn run(circuit: &Circuit, ending: Ending, times: u32) {
    for _ in 0..times {
        let trial = circuit.admit(&rules()).unwrap();
        circuit.settle(&rules(), trial, ending, Moment::now());
    }
}

fn mode(circuit: &Circuit) -> u8 {
    assert_eq!(
        i64::from(circuit.mode.load(Ordering::Relaxed)),
        circuit.metrics.state.get()
    );
    circuit.mode.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn the_ratio_opens_it_once_there_is_volume() {
    let circuit = circuit();
    run(&circuit, ERROR, 9);
    assert_eq!(mode(&circuit), CLOSED, "too few calls");
    run(&circuit, GOOD, 11);
    run(&circuit, ERROR, 1);
    assert_eq!(mode(&circuit), CLOSED, "10 of 21");
    run(&circuit, ERROR, 1);
    assert_eq!(mode(&circuit), OPEN, "11 of 22");
    assert_eq!(circuit.metrics.opened.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn slow_calls_open_it_where_policy_names_a_time() {
    let circuit = circuit();
    run(&circuit, GOOD, 5);
    run(&circuit, SLOW, 5);
    assert_eq!(mode(&circuit), OPEN);
    let blind = Rules {
        slow_call_ms: None,
        ..rules()
    };
    let circuit = Circuit::new(&blind, MethodBreakerMetrics::unregistered());
    (0..100).for_each(|_| circuit.settle(&blind, None, SLOW, Moment::now()));
    assert_eq!(mode(&circuit), CLOSED);
}

#[tokio::test(start_paused = true)]
async fn half_open_lets_exactly_so_many_pass_and_goes_by_their_outcomes() {
    let circuit = circuit();
    let half_open = async || {
        run(&circuit, ERROR, 10);
        assert!(matches!(circuit.admit(&rules()), Err(Refusal::Open { .. })));
        tokio::time::advance(Duration::from_millis(4999)).await;
        assert!(matches!(circuit.admit(&rules()), Err(Refusal::Open { .. })));
        tokio::time::advance(Duration::from_millis(1)).await;
        let trials: Vec<_> = (0..3).map(|_| circuit.admit(&rules()).unwrap()).collect();
        assert!(matches!(circuit.admit(&rules()), Err(Refusal::Trying)));
        assert_eq!(mode(&circuit), HALF_OPEN);
        trials
    };
    let now = Moment::now;
    // One of three may fail.
    let trials = half_open().await;
    for (trial, ending) in trials.into_iter().zip([GOOD, ERROR, GOOD]) {
        circuit.settle(&rules(), trial, ending, now());
    }
    assert_eq!(mode(&circuit), CLOSED);
    run(&circuit, ERROR, 9);
    assert_eq!(mode(&circuit), CLOSED, "it begins with an empty window");
    run(&circuit, GOOD, 9);
    circuit.window.clear();
    // Two may not: it is open again at once, and the third trial's end counts for nothing.
    let trials = half_open().await;
    circuit.settle(&rules(), trials[0], ERROR, now());
    circuit.settle(&rules(), trials[1], ERROR, now());
    assert_eq!(mode(&circuit), OPEN);
    tokio::time::advance(Duration::from_millis(5000)).await;
    let again = circuit.admit(&rules()).unwrap();
    circuit.settle(&rules(), trials[2], ERROR, now());
    circuit.settle(&rules(), again, GOOD, now());
    run(&circuit, GOOD, 2);
    assert_eq!(mode(&circuit), CLOSED);
    // A neutral end gives the place to another trial.
    let trials = half_open().await;
    circuit.settle(&rules(), trials[0], Ending::Neutral, now());
    let another = circuit.admit(&rules()).unwrap();
    assert!(another.is_some());
    assert!(circuit.admit(&rules()).is_err());
}

#[tokio::test(start_paused = true)]
async fn what_ends_while_it_is_open_does_not_count() {
    let circuit = circuit();
    run(&circuit, ERROR, 10);
    for _ in 0..100 {
        circuit.settle(&rules(), None, GOOD, Moment::now());
    }
    assert_eq!(circuit.window.counts(Moment::now()).calls, 10);
    assert_eq!(circuit.metrics.opened.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn fewer_trials_by_policy_are_enough_trials() {
    let circuit = circuit();
    run(&circuit, ERROR, 10);
    tokio::time::advance(Duration::from_secs(5)).await;
    run(&circuit, GOOD, 2);
    assert_eq!(mode(&circuit), HALF_OPEN);
    let fewer = Rules {
        half_open_calls: 2,
        ..rules()
    };
    assert!(circuit.admit(&fewer).unwrap().is_none());
    assert_eq!(mode(&circuit), CLOSED);
}

#[tokio::test(start_paused = true)]
async fn another_window_keeps_the_state() {
    let circuit = circuit();
    run(&circuit, ERROR, 10);
    circuit.follow(&Rules {
        window_ms: 1000,
        ..rules()
    });
    assert_eq!(mode(&circuit), OPEN);
    let old = Moment::now();
    tokio::time::advance(Duration::from_secs(2)).await;
    circuit.window.record(
        Verdict {
            error: true,
            slow: false,
        },
        old,
    );
    assert_eq!(
        circuit.window.counts(Moment::now()).calls,
        0,
        "of the last second"
    );
}

/// Real threads: however they meet, no half-open time has more trials under way than policy says, and the breaker
/// comes to rest.
#[test]
fn no_more_trials_than_wanted_between_threads() {
    let rules = Rules {
        min_calls: 1,
        open_ms: 1,
        ..rules()
    };
    let circuit = Circuit::new(&rules, MethodBreakerMetrics::unregistered());
    let under_way = Mutex::new(std::collections::HashMap::<Trial, u32>::new());
    let trials = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (rules, circuit, under_way, trials) = (&rules, &circuit, &under_way, &trials);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                while trials.load(Ordering::Relaxed) < 200 {
                    let Ok(trial) = circuit.admit(rules) else {
                        std::thread::yield_now();
                        continue;
                    };
                    if let Some(trial) = trial {
                        trials.fetch_add(1, Ordering::Relaxed);
                        let mut under_way = under_way.lock();
                        let count = under_way.entry(trial).or_default();
                        *count += 1;
                        assert!(*count <= rules.half_open_calls);
                    }
                    (0..random.u32(..20)).for_each(|_| std::thread::yield_now());
                    if let Some(trial) = trial {
                        under_way.lock().entry(trial).and_modify(|count| *count -= 1);
                    }
                    // Once closed, the first call opens it again.
                    let ending = match trial {
                        Some(_) => [GOOD, ERROR, Ending::Neutral][random.usize(..3)],
                        None => ERROR,
                    };
                    circuit.settle(rules, trial, ending, Moment::now());
                }
            });
        }
    });
    let mode = mode(&circuit);
    let state = circuit.state.lock();
    match &*state {
        State::Closed => assert_eq!(mode, CLOSED),
        State::Open { .. } => assert_eq!(mode, OPEN),
        State::HalfOpen(trials) => assert_eq!((mode, trials.under_way), (HALF_OPEN, 0)),
    }
}
