//! Who provides what, how fast, and what goes wrong.

use std::time::Duration;

use crate::policy::{Balance, CallRules};

/// One run's conditions.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its name in tables.
    pub name: &'static str,
    /// Instances, by weight. A weight of 100 is one whose capacity is `workers`; capacity follows the weight.
    pub weights: Vec<u32>,
    /// Calls that an instance of weight 100 handles at once; further ones queue there.
    pub workers: usize,
    /// Mean time of a handler; single times are exponential.
    pub service: Duration,
    /// Offered load over the capacity of all instances together while they are well.
    pub utilization: f64,
    /// Processes that call, each with a balancer of its own.
    pub consumers: usize,
    /// What the instances report of their load, as RSF's providers do.
    pub reports: bool,
    /// What goes wrong.
    pub trouble: Trouble,
    /// Virtual time of the run.
    pub time: Duration,
    /// Before it nothing is measured.
    pub settled: Duration,
    /// The policy.
    pub rules: CallRules,
}

/// What goes wrong, always with the last instance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// Its handlers take so many times as long, from the beginning.
    Slow(f64),
    /// It fails at once, from the beginning, and no breaker stops it.
    FailsFast,
    /// It joins at the moment when measuring begins, and its first so many calls take up to twenty times as long.
    Cold(u32),
    /// Every second instance has half the speed and the same weight.
    Uneven,
}

impl Scenario {
    /// Ten alike instances at 60 %, four consumers, 30 s of which the first ten are not measured.
    pub fn ten(name: &'static str, trouble: Trouble) -> Self {
        let mut rules = CallRules::default();
        // Nothing here runs breakers: this is what the balancer does alone.
        rules.node_breaker.enabled = false;
        Scenario {
            name,
            weights: vec![100; 10],
            workers: 4,
            service: Duration::from_millis(10),
            utilization: 0.6,
            consumers: 4,
            reports: true,
            trouble,
            time: Duration::from_secs(30),
            settled: Duration::from_secs(10),
            rules,
        }
    }

    /// With another balancer.
    #[must_use]
    pub fn balanced(mut self, balance: Balance) -> Self {
        self.rules.balance = balance;
        self
    }

    /// What the table compares.
    pub fn all() -> Vec<Scenario> {
        let uneven = Scenario::ten("5 of 10 at half the speed", Trouble::Uneven);
        let cold = Scenario {
            utilization: 0.7,
            ..Scenario::ten("an 11th joins, cold", Trouble::Cold(500))
        };
        vec![
            Scenario::ten("10 alike", Trouble::None),
            Scenario::ten("1 of 10 is 50 × slower", Trouble::Slow(50.0)),
            Scenario::ten("1 of 10 fails at once", Trouble::FailsFast),
            Scenario {
                utilization: 0.55,
                ..uneven
            },
            Scenario {
                weights: vec![100; 11],
                ..cold
            },
            Scenario::weighted(),
        ]
    }

    /// Forty instances of three weights, much under way: how evenly it is spread.
    pub fn weighted() -> Self {
        Scenario {
            weights: (0..40).map(|place| 100 * (1 + place % 3)).collect(),
            workers: 20,
            service: Duration::from_millis(50),
            utilization: 0.9,
            consumers: 1,
            time: Duration::from_secs(9),
            settled: Duration::from_secs(4),
            ..Scenario::ten("40 of weights 1 : 2 : 3, at 90 %", Trouble::None)
        }
    }

    /// Mitzenmacher's supermarket: many queues of one server each, so that theory says what must come out.
    pub fn supermarket(utilization: f64) -> Self {
        Scenario {
            weights: vec![100; 100],
            workers: 1,
            utilization,
            consumers: 1,
            reports: false,
            time: Duration::from_secs(25),
            settled: Duration::from_secs(5),
            ..Scenario::ten("supermarket", Trouble::None)
        }
    }
}
