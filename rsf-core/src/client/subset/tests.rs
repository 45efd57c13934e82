//! The subset's promises, and a simulation of a fleet whose figures stand in `docs/connections.md`:
//! `cargo test -p rsf-core --lib client::subset::tests::a_fleet -- --nocapture`.

use super::*;

/// An instance of the simulated fleet.
#[derive(Clone)]
struct Simulated {
    id: String,
    weight: u32,
    zone: &'static str,
}

fn fleet(
    count: usize,
    weight: impl Fn(usize) -> u32,
    zone: impl Fn(usize) -> &'static str,
) -> Vec<Simulated> {
    let instance = |n| Simulated {
        id: format!("member/10.1.{}.{}:7000", n / 250, n % 250),
        weight: weight(n),
        zone: zone(n),
    };
    (0..count).map(instance).collect()
}

fn seed(consumer: usize) -> u64 {
    hash(format!("order/10.2.{}.{}:7000", consumer / 250, consumer % 250).as_bytes())
}

fn chosen(consumer: usize, zone: &str, fleet: &[Simulated], most: usize, percent: u32) -> Vec<Chosen> {
    let candidate = |(place, instance): (usize, &Simulated)| {
        let own = percent > 0 && instance.zone == zone;
        Candidate::new(seed(consumer), place, &instance.id, instance.weight, own)
    };
    choose(fleet.iter().enumerate().map(candidate).collect(), most, percent)
}

/// Least, mean, greatest, and the standard deviation as a share of the mean.
struct Spread {
    min: f64,
    mean: f64,
    max: f64,
    deviation: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Spread {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
        Spread {
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            mean,
            max: values.iter().copied().fold(0.0, f64::max),
            deviation: variance.sqrt() / mean,
        }
    }
}

struct Case {
    name: &'static str,
    consumers: usize,
    subset: usize,
    zone_percent: u32,
    fleet: Vec<Simulated>,
    /// The zone of each consumer.
    from: fn(usize) -> &'static str,
}

/// What all consumers together do to the instances: connections, and load in units of what the weight makes fair.
fn simulate(case: &Case) -> (Vec<f64>, Vec<f64>) {
    let count = case.fleet.len();
    let (mut connections, mut load) = (vec![0.0; count], vec![0.0; count]);
    for consumer in 0..case.consumers {
        let members = chosen(
            consumer,
            (case.from)(consumer),
            &case.fleet,
            case.subset,
            case.zone_percent,
        );
        let total: f64 = members.iter().map(|member| f64::from(member.weight)).sum();
        for member in members {
            connections[member.place] += 1.0;
            load[member.place] += f64::from(member.weight) / total;
        }
    }
    let weights: f64 = case.fleet.iter().map(|instance| f64::from(instance.weight)).sum();
    for (load, instance) in load.iter_mut().zip(&case.fleet) {
        let fair = case.consumers as f64 * f64::from(instance.weight) / weights;
        *load /= fair;
    }
    (connections, load)
}

fn in_one(_: usize) -> &'static str {
    ""
}

fn in_three(n: usize) -> &'static str {
    ["a", "b", "c"][n % 3]
}

#[allow(clippy::print_stdout, reason = "the figures are what the simulation is for")]
fn print_row(name: &str, connections: &Spread, load: &Spread) {
    println!(
        "| {name} | {:.0} / {:.1} / {:.0} | {:.0} % | {:.2} / {:.2} | {:.0} % |",
        connections.min,
        connections.mean,
        connections.max,
        connections.deviation * 100.0,
        load.min,
        load.max,
        load.deviation * 100.0
    );
}

#[test]
#[allow(clippy::print_stdout, reason = "the figures are what the simulation is for")]
fn a_fleet_of_a_thousand_instances() {
    let even = || fleet(1000, |_| 100, in_one);
    let uneven = || fleet(1000, |n| [50, 100, 100, 100, 200][n % 5], in_one);
    let zoned = || fleet(1000, |_| 100, in_three);
    let case = |name, consumers, subset, zone_percent, fleet, from| Case {
        name,
        consumers,
        subset,
        zone_percent,
        fleet,
        from,
    };
    let cases = [
        case(
            "500 consumers, subset 20",
            500,
            20,
            0,
            even(),
            in_one as fn(usize) -> &'static str,
        ),
        case("the same, weights 50, 100 and 200", 500, 20, 0, uneven(), in_one),
        case("the same, three zones, 50 % own", 500, 20, 50, zoned(), in_three),
        case(
            "the same, all consumers in one zone",
            500,
            20,
            50,
            zoned(),
            |_| "a",
        ),
        case("500 consumers, subset 256", 500, 256, 50, even(), in_one),
        case("5000 consumers, subset 20", 5000, 20, 0, even(), in_one),
        case("10 consumers, subset 256", 10, 256, 50, even(), in_one),
    ];
    println!(
        "| 1 000 instances and | connections of an instance: least / mean / most | deviation | load of an instance (1 = fair): least / most | deviation |\n|---|---|---|---|---|"
    );
    for case in &cases {
        let (connections, load) = simulate(case);
        let (connections, load) = (Spread::of(&connections), Spread::of(&load));
        print_row(case.name, &connections, &load);
        let members = (case.consumers * case.subset) as f64;
        assert!((connections.mean * 1000.0 - members).abs() < 0.5, "{}", case.name);
        // Independent choices cannot do better than a binomial distribution; zones and weights cost a bit more.
        let share = case.subset as f64 / 1000.0;
        let binomial = ((1.0 - share) / (case.consumers as f64 * share)).sqrt();
        assert!(
            load.deviation < 1.5 * binomial,
            "{}: {}",
            case.name,
            load.deviation
        );
        assert!((load.mean - 1.0).abs() < 0.03, "{}: {}", case.name, load.mean);
    }
    let (lost, most) = churn(&even());
    println!(
        "\n1 % of the instances replaced: a consumer's 20 change by {lost:.2} on average, {most} at most"
    );
    assert!(lost < 0.5 && most <= 4, "{lost} {most}");
}

/// How many of 20 members consumers lose when 1 % of the instances are replaced: on average, and at most.
fn churn(before: &[Simulated]) -> (f64, usize) {
    let mut after = before.to_vec();
    for (n, instance) in after.iter_mut().enumerate().filter(|(n, _)| n % 100 == 7) {
        instance.id = format!("member/10.9.0.{n}:7000");
    }
    let mut lost = Vec::new();
    for consumer in 0..500 {
        let ids = |fleet: &[Simulated]| -> std::collections::BTreeSet<String> {
            let members = chosen(consumer, "", fleet, 20, 0);
            members
                .iter()
                .map(|member| fleet[member.place].id.clone())
                .collect()
        };
        lost.push(ids(before).difference(&ids(&after)).count());
    }
    let mean = lost.iter().sum::<usize>() as f64 / lost.len() as f64;
    (mean, lost.into_iter().max().unwrap())
}

#[test]
fn one_instance_more_or_less_changes_one_place_at_most() {
    let all = fleet(300, |_| 100, in_three);
    for gone in [0, 17, 299] {
        let mut rest = all.clone();
        rest.remove(gone);
        for consumer in 0..50 {
            let ids = |fleet: &[Simulated]| -> std::collections::BTreeSet<String> {
                let members = chosen(consumer, "b", fleet, 20, 50);
                members
                    .iter()
                    .map(|member| fleet[member.place].id.clone())
                    .collect()
            };
            let (before, after) = (ids(&all), ids(&rest));
            assert_eq!(after.len(), 20);
            let lost: Vec<_> = before.difference(&after).collect();
            assert!(lost.iter().all(|id| **id == all[gone].id), "{lost:?}");
        }
    }
}

#[test]
fn the_own_zone_has_its_share_and_the_others_the_rest() {
    let all = fleet(300, |_| 100, in_three);
    let own = |percent, fleet: &[Simulated]| {
        let members = chosen(1, "a", fleet, 20, percent);
        assert_eq!(members.len(), 20);
        members
            .iter()
            .filter(|member| fleet[member.place].zone == "a")
            .count()
    };
    assert_eq!(own(50, &all), 10);
    assert_eq!(own(100, &all), 20);
    // Three of its own, seven of the others: each side fills what the other lacks.
    let few = |own: usize, others: usize| -> Vec<Simulated> {
        let of = |zone: &'static str, count| all.iter().filter(move |i| i.zone == zone).take(count).cloned();
        of("a", own).chain(of("b", others)).collect()
    };
    assert_eq!(own(50, &few(3, 100)), 3);
    assert_eq!(own(50, &few(100, 7)), 13);
    assert_eq!(own(100, &few(3, 100)), 3);
}

#[test]
fn an_equal_weight_stays_what_it_is() {
    let members = chosen(3, "", &fleet(100, |_| 70, in_one), 10, 50);
    assert!(members.iter().all(|member| member.weight == 70), "{members:?}");
    let members = chosen(
        3,
        "",
        &fleet(100, |n| if n == 5 { 10_000 } else { 1 }, in_one),
        10,
        50,
    );
    assert!(
        members.iter().all(|member| (1..=10_000).contains(&member.weight)),
        "{members:?}"
    );
}
