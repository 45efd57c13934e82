//! Thousands of schedules of faults, none of which breaks an invariant; and one seed is one run.
//!
//! A failing seed is run once more with its trace, which stands in the test's output.

use rsf_simulation::{Options, run};

/// In each of the tests; the time that nextest gives one is for a slow machine's debug build.
const SEEDS: u64 = 125;

fn nothing_breaks(part: u64) -> std::io::Result<()> {
    for seed in (part - 1) * SEEDS + 1..=part * SEEDS {
        let outcome = run(seed, Options::default())?;
        if outcome.violation.is_some() {
            let trace = Options {
                trace: true,
                ..Options::default()
            };
            run(seed, trace)?;
            panic!("{outcome}");
        }
    }
    Ok(())
}

/// Tests of their own, so that all processors have something to do.
macro_rules! parts {
    ($($name:ident $part:literal)*) => {
        $(#[test] fn $name() -> std::io::Result<()> { nothing_breaks($part) })*
    };
}

parts! {
    seeds_from_1 1 seeds_from_126 2 seeds_from_251 3 seeds_from_376 4
    seeds_from_501 5 seeds_from_626 6 seeds_from_751 7 seeds_from_876 8
    seeds_from_1001 9 seeds_from_1126 10 seeds_from_1251 11 seeds_from_1376 12
    seeds_from_1501 13 seeds_from_1626 14 seeds_from_1751 15 seeds_from_1876 16
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1..=10 {
        let once = run(seed, Options::default()).expect("a run");
        let twice = run(seed, Options::default()).expect("a run");
        assert_eq!(once, twice, "seed {seed}");
        assert!(once.steps > 10, "seed {seed} does something");
    }
}

#[test]
fn other_seeds_are_other_runs() {
    let hash = |seed| run(seed, Options::default()).expect("a run").hash;
    assert_ne!(hash(1), hash(2));
}
