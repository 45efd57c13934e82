//! What came of a run, and the table of all.

use std::fmt::Write as _;
use std::time::Duration;

use super::fleet::simulate;
use super::scenario::{Scenario, Trouble};
use crate::policy::Balance;

/// What came of a run, from the moment on when it had settled.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Calls.
    pub calls: usize,
    /// Median time of a call, tries included.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
    /// Mean.
    pub mean: Duration,
    /// Share of the calls that succeeded, tries included.
    pub success: f64,
    /// Share of the attempts that went to the last instance, the one in trouble.
    pub troubled: f64,
    /// 99th percentile of (calls under way per weight) over what an even spread would have, looked at every 10 ms.
    pub spread_p99: f64,
}

#[derive(Default)]
pub(super) struct Record {
    times: Vec<Duration>,
    spreads: Vec<f64>,
    succeeded: usize,
    attempts: usize,
    troubled: usize,
}

impl Record {
    pub(super) fn attempt(&mut self, troubled: bool) {
        self.attempts += 1;
        self.troubled += usize::from(troubled);
    }

    pub(super) fn call(&mut self, took: Duration, succeeded: bool) {
        self.times.push(took);
        self.succeeded += usize::from(succeeded);
    }

    pub(super) fn spread(&mut self, ratio: f64) {
        self.spreads.push(ratio);
    }

    pub(super) fn outcome(&mut self, scenario: &Scenario) -> Outcome {
        self.times.sort_unstable();
        self.spreads.sort_unstable_by(f64::total_cmp);
        let calls = self.times.len();
        let at = |share: f64| self.times[((calls - 1) as f64 * share) as usize];
        let last = (self.spreads.len() as f64 * 0.99) as usize;
        assert!(calls > 0, "{}: nothing happened", scenario.name);
        Outcome {
            calls,
            p50: at(0.5),
            p99: at(0.99),
            max: at(1.0),
            mean: self.times.iter().sum::<Duration>() / calls as u32,
            success: self.succeeded as f64 / calls as f64,
            troubled: self.troubled as f64 / self.attempts as f64,
            spread_p99: self.spreads.get(last).copied().unwrap_or_default(),
        }
    }
}

/// The table of all scenarios and balancers, in Markdown.
pub fn markdown(seed: u64) -> String {
    let mut out = String::from(
        "| scenario | balance | p50 ms | p99 ms | max ms | to the one in trouble | success | spread p99 |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for scenario in Scenario::all() {
        let balances = [
            Balance::LeastPending,
            Balance::PeakEwma,
            Balance::RoundRobin,
            Balance::Random,
        ];
        for balance in balances {
            let name = balance.to_string();
            let scenario = scenario.clone().balanced(balance);
            row(&mut out, &name, &scenario, seed);
            if name == "least_pending" && matches!(scenario.trouble, Trouble::Cold(_)) {
                let mut at_once = scenario.clone();
                at_once.rules.warm_up.duration_ms = 0;
                row(&mut out, "least_pending, no warm-up", &at_once, seed);
            }
        }
    }
    out
}

fn row(out: &mut String, balance: &str, scenario: &Scenario, seed: u64) {
    let outcome = simulate(scenario, seed);
    let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e3);
    let troubled = match scenario.trouble {
        Trouble::None | Trouble::Uneven => "–".to_owned(),
        _ => format!("{:.2} %", outcome.troubled * 100.0),
    };
    let _ = writeln!(
        out,
        "| {} | {balance} | {} | {} | {} | {troubled} | {:.3} % | {:.2} |",
        scenario.name,
        ms(outcome.p50),
        ms(outcome.p99),
        ms(outcome.max),
        outcome.success * 100.0,
        outcome.spread_p99,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 7;

    #[test]
    fn a_seed_makes_a_run() {
        let mut scenario = Scenario::ten("short", Trouble::Slow(50.0));
        scenario.time = Duration::from_secs(12);
        assert_eq!(simulate(&scenario, 1), simulate(&scenario, 1));
        assert_ne!(simulate(&scenario, 1), simulate(&scenario, 2));
    }

    #[test]
    fn two_choices_wait_as_long_as_theory_says() {
        // Mitzenmacher 2001: the mean time in the system with two choices is Σ λ^(2^i − 2), with one 1 / (1 − λ).
        let load: f64 = 0.9;
        let two: f64 = (1..=8).map(|i| load.powi((1 << i) - 2)).sum();
        let scenario = Scenario::supermarket(load);
        let mean = |balance| {
            simulate(&scenario.clone().balanced(balance), SEED)
                .mean
                .as_secs_f64()
                * 100.0
        };
        let found = mean(Balance::LeastPending);
        assert!((found / two - 1.0).abs() < 0.08, "{found} instead of {two}");
        let one = mean(Balance::Random);
        assert!(one > 2.5 * found, "{one} with one choice, {found} with two");
    }

    #[test]
    fn a_slow_instance_gets_next_to_nothing() {
        for balance in [Balance::LeastPending, Balance::PeakEwma] {
            let scenario = Scenario::ten("slow", Trouble::Slow(50.0)).balanced(balance);
            let outcome = simulate(&scenario, SEED);
            assert!(
                outcome.troubled <= 0.005,
                "{} {outcome:?}",
                scenario.rules.balance
            );
            let well = simulate(&Scenario::ten("well", Trouble::None), SEED);
            assert!(outcome.p99 <= well.p99.mul_f64(1.5), "{outcome:?}, {well:?}");
        }
        let mut blind = Scenario::ten("slow", Trouble::Slow(50.0)).balanced(Balance::Random);
        blind.reports = false;
        let blind = simulate(&blind, SEED);
        assert!(blind.troubled > 0.05, "the control must be worse: {blind:?}");
    }

    #[test]
    fn a_slow_instance_gets_next_to_nothing_at_low_load() {
        let mut scenario = Scenario::ten("slow", Trouble::Slow(50.0));
        scenario.utilization = 0.05;
        let outcome = simulate(&scenario, SEED);
        assert!(outcome.troubled <= 0.005, "{outcome:?}");
    }

    #[test]
    fn an_instance_that_fails_at_once_attracts_nothing() {
        for balance in [
            Balance::LeastPending,
            Balance::PeakEwma,
            Balance::RoundRobin,
            Balance::Random,
        ] {
            let scenario = Scenario::ten("fails", Trouble::FailsFast).balanced(balance);
            let outcome = simulate(&scenario, SEED);
            assert!(outcome.success >= 0.999, "{} {outcome:?}", scenario.rules.balance);
            assert!(
                outcome.troubled <= 0.005,
                "{} {outcome:?}",
                scenario.rules.balance
            );
        }
    }

    #[test]
    fn calls_are_spread_by_weight() {
        let outcome = simulate(&Scenario::weighted(), SEED);
        assert!(outcome.spread_p99 <= 1.25, "{outcome:?}");
    }

    #[test]
    fn a_cold_instance_is_warmed_without_its_callers_feeling_it() {
        let cold = |scenario: &Scenario| matches!(scenario.trouble, Trouble::Cold(_));
        let cold = Scenario::all().into_iter().find(cold).unwrap();
        let mut never = cold.clone();
        never.trouble = Trouble::None;
        let (warmed, well) = (simulate(&cold, SEED), simulate(&never, SEED));
        assert!(warmed.p99 <= well.p99.mul_f64(1.25), "{warmed:?}, {well:?}");
        // Slow as it is, nobody would go there; then it would never become fast.
        let mut at_once = cold;
        at_once.rules.warm_up.duration_ms = 0;
        let at_once = simulate(&at_once, SEED);
        assert!(
            warmed.troubled > 5.0 * at_once.troubled,
            "{warmed:?}, {at_once:?}"
        );
    }
}
