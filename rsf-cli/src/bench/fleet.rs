//! The simulated fleet: how many services of which size, and which of them an instance provides.

use rsf_registry::record::{Lease, LeaseState, ProvidedService};

/// What each instance provides.
pub(super) const SERVICES_EACH: usize = 10;
/// The largest service has one instance in so many of the fleet: 20 000 of 300 000.
const LARGEST_ONE_IN: usize = 15;

/// Sizes of services by Zipf's law, and who provides which; nothing is stored by instance.
#[derive(Debug)]
pub(super) struct Shape {
    instances: usize,
    /// The first place of each service among all memberships, and their number at the end.
    begins: Vec<usize>,
}

impl Shape {
    /// `instances` × 10 memberships in `services` services, the largest of which has a fifteenth of the fleet, where so many
    /// are left when each has one.
    ///
    /// # Errors
    /// Where there are fewer instances than that takes, or more services than memberships.
    pub(super) fn new(instances: usize, services: usize) -> Result<Shape, String> {
        let places = instances * SERVICES_EACH;
        if instances < LARGEST_ONE_IN * 2 || services < LARGEST_ONE_IN * SERVICES_EACH || services > places {
            let least = LARGEST_ONE_IN * SERVICES_EACH;
            return Err(format!(
                "{instances} leases and {services} services do not go together: use at least {} leases, and {least} to \
                 10 times as many services",
                LARGEST_ONE_IN * 2
            ));
        }
        let largest = instances / LARGEST_ONE_IN;
        let size = |rank: usize, exponent: f64| {
            let share = ((rank + 1) as f64).powf(-exponent);
            ((largest as f64 * share) as usize).max(1)
        };
        let total = |exponent: f64| (0..services).map(|rank| size(rank, exponent)).sum::<usize>();
        // The sum falls as the exponent rises; what rounding leaves over goes to the smallest services.
        let (mut low, mut high) = (0.0, 4.0);
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            if total(middle) > places {
                low = middle;
            } else {
                high = middle;
            }
        }
        let mut sizes: Vec<usize> = (0..services).map(|rank| size(rank, high)).collect();
        // Where there are hardly more memberships than services, the largest are smaller than that.
        let mut over = sizes.iter().sum::<usize>().saturating_sub(places);
        for size in &mut sizes {
            let taken = over.min(*size - 1);
            *size -= taken;
            over -= taken;
        }
        let left = places.saturating_sub(sizes.iter().sum());
        for extra in 0..left {
            sizes[services - 1 - extra % services] += 1;
        }
        let mut begins = Vec::with_capacity(services + 1);
        let mut place = 0;
        for size in sizes {
            begins.push(place);
            place += size;
        }
        begins.push(place);
        Ok(Shape { instances, begins })
    }

    pub(super) fn instances(&self) -> usize {
        self.instances
    }

    pub(super) fn services(&self) -> usize {
        self.begins.len() - 1
    }

    /// How many instances a service has.
    pub(super) fn size(&self, service: usize) -> usize {
        self.begins[service + 1] - self.begins[service]
    }

    /// The services of an instance. They differ: two places of one instance are as far apart as the fleet is large.
    pub(super) fn services_of(&self, instance: usize) -> impl Iterator<Item = usize> + '_ {
        let places = *self.begins.last().unwrap_or(&0);
        let own = (instance..places).step_by(self.instances);
        own.map(|place| self.begins.partition_point(|&begin| begin <= place) - 1)
    }

    /// One of a service's instances, by its number among them.
    pub(super) fn member(&self, service: usize, number: usize) -> usize {
        (self.begins[service] + number % self.size(service)) % self.instances
    }

    /// What an instance says of itself in this incarnation.
    pub(super) fn lease(&self, namespace: &str, instance: usize, incarnation: u64, sequence: u64) -> Lease {
        let [_, a, b, c] = (instance as u32 + 256).to_be_bytes();
        let provided = |service| ProvidedService {
            name: service_key(service),
            implementation: String::new(),
            schema_hash: "4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce".to_owned(),
        };
        Lease {
            namespace: namespace.to_owned(),
            application: format!("application-{}", instance / 50),
            instance: instance_id(instance),
            incarnation,
            sequence,
            // On this machine, where nobody listens: who is held back and asked is found gone.
            address: format!("127.{a}.{b}.{c}:9"),
            admin_address: format!("127.{a}.{b}.{c}:19"),
            zone: format!("zone-{}", instance % 3),
            weight: 100,
            services: self.services_of(instance).map(provided).collect(),
            state: LeaseState::Up.into(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Lease::default()
        }
    }
}

/// The key of a service by its rank; the smaller, the larger the service.
pub(super) fn service_key(service: usize) -> String {
    format!("bench.v1.Service{service}")
}

/// The id of an instance by its number.
pub(super) fn instance_id(instance: usize) -> String {
    format!("application-{}/{instance}", instance / 50)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_instance_has_ten_services_and_the_largest_has_a_fifteenth() {
        for (instances, services) in [(3_000, 300), (300_000, 30_000), (30, 150), (1_000, 10_000)] {
            let shape = Shape::new(instances, services).expect("they go together");
            assert_eq!(shape.services(), services);
            let sizes: Vec<usize> = (0..services).map(|service| shape.size(service)).collect();
            assert_eq!(sizes.iter().sum::<usize>(), instances * SERVICES_EACH);
            assert!(
                sizes.iter().all(|&size| size > 0 && size <= instances),
                "{services}"
            );
            if services * 2 <= instances {
                assert_eq!(sizes[0], instances / LARGEST_ONE_IN);
            }
            for instance in (0..instances).step_by(instances / 20) {
                let own: BTreeSet<usize> = shape.services_of(instance).collect();
                assert_eq!(own.len(), SERVICES_EACH, "of {instance}");
                for service in own {
                    let members = (0..shape.size(service)).map(|number| shape.member(service, number));
                    assert!(members.into_iter().any(|member| member == instance));
                }
            }
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        assert!(Shape::new(10, 150).is_err());
        assert!(Shape::new(1_000, 100).is_err());
        assert!(Shape::new(1_000, 10_001).is_err());
    }
}
