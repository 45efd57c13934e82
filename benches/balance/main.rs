//! What the choice of an instance costs, and how evenly it spreads calls: PERFORMANCE.md's goal 7.
//!
//! Each row is a pool whose weights change all the time, with twenty calls under way per instance. A pick is the whole of
//! what a call pays: tiers, scores, the draw, and the endpoint's reference count.

#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

use std::hint::black_box;
use std::time::Duration;

use rsf_core::policy::{Balance, CallRules};
use rsf_core::simulation::Picker;
use tokio::time::Instant;

const SEED: u64 = 7;
/// Picks of one round; their time is taken together.
const ROUND: u32 = 10_000;
const ROUNDS: u32 = 100;
/// Calls under way, per instance.
const UNDER_WAY: usize = 20;
/// Nanoseconds that a pick of the default balancer may take, and the spread that it may have.
const GOAL_NS: f64 = 60.0;
const GOAL_SPREAD: f64 = 1.25;

fn main() {
    println!("| balance | instances | ns a pick | best round | rebuilt in µs | spread p99 |");
    println!("|---|---|---|---|---|---|");
    let balances = [
        Balance::LeastPending,
        Balance::PeakEwma,
        Balance::Random,
        Balance::RoundRobin,
        Balance::ConsistentHash,
    ];
    for balance in balances {
        for count in [20, 100, 10_000] {
            let row = measure(&balance, count);
            let goal = if balance == Balance::LeastPending {
                let reached = row.mean <= GOAL_NS && row.spread <= GOAL_SPREAD;
                if reached { " reached" } else { " missed" }
            } else {
                ""
            };
            println!(
                "| {balance} | {count} | {:.1} | {:.1} | {:.0} | {:.2}{goal} |",
                row.mean,
                row.best,
                row.rebuilt.as_secs_f64() * 1e6,
                row.spread,
            );
        }
    }
}

struct Row {
    mean: f64,
    best: f64,
    rebuilt: Duration,
    spread: f64,
}

fn measure(balance: &Balance, count: usize) -> Row {
    fastrand::seed(SEED);
    let rules = CallRules {
        balance: balance.clone(),
        ..CallRules::default()
    };
    let weights = (0..count).map(|place| 100 * (1 + place as u32 % 3)).collect();
    let mut picker = Picker::new(weights, rules);
    let most = UNDER_WAY * count;
    let keyed = *balance == Balance::ConsistentHash;
    let key = || keyed.then(|| fastrand::u64(..));
    for _ in 0..most * 2 {
        picker.call(key(), Instant::now(), most);
    }
    let (mut picking, mut rebuilding, mut best) = (Duration::ZERO, Duration::ZERO, Duration::MAX);
    let mut spreads = Vec::new();
    for round in 0..ROUNDS {
        // One instance in a hundred, at least one, changes between 100 and 300 and back.
        let begun = Instant::now();
        picker.reweigh(|weights| {
            for place in (round as usize % 100..count).step_by(100) {
                weights[place] = 100 * (1 + (weights[place] / 100) % 3);
            }
        });
        rebuilding += begun.elapsed();
        let begun = Instant::now();
        for _ in 0..ROUND {
            black_box(picker.pick(key(), begun));
        }
        let took = begun.elapsed();
        picking += took;
        best = best.min(took);
        // The calls themselves, so that what is picked has its effect.
        for _ in 0..most.max(ROUND as usize) {
            picker.call(key(), Instant::now(), most);
        }
        spreads.extend(picker.spreads());
    }
    spreads.sort_unstable_by(f64::total_cmp);
    Row {
        mean: picking.as_nanos() as f64 / f64::from(ROUND * ROUNDS),
        best: best.as_nanos() as f64 / f64::from(ROUND),
        rebuilt: rebuilding / ROUNDS,
        spread: spreads[spreads.len() * 99 / 100],
    }
}
