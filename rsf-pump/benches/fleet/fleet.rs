//! The leases of the fleet, made up from their numbers.

use rsf_registry::record::{Lease, LeaseState, ProvidedService};

pub(crate) const LEASES: usize = 300_000;
/// Services of each lease.
pub(crate) const EACH: usize = 10;
/// Instances of one application; they provide the same services.
const APPLICATION: usize = 50;
const APPLICATIONS: usize = LEASES / APPLICATION;
/// Instances of the largest service.
const LARGEST: usize = 20_000;
/// The k-th service has `LARGEST / k^EXPONENT` instances: with 30 000 services that makes ten a lease.
const EXPONENT: f64 = 0.6;

/// Which application provides which services.
pub(crate) struct Fleet {
    /// Services, dealt to the applications in turn.
    dealt: Vec<usize>,
}

impl Fleet {
    pub(crate) fn new() -> Fleet {
        let mut dealt = Vec::with_capacity(APPLICATIONS * EACH);
        for service in 0.. {
            let share = (service as f64 + 1.0).powf(-EXPONENT);
            let applications = ((LARGEST / APPLICATION) as f64 * share).round().max(1.0);
            let left = APPLICATIONS * EACH - dealt.len();
            if left == 0 {
                break;
            }
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 400")]
            let applications = (applications as usize).min(left);
            dealt.extend(std::iter::repeat_n(service, applications));
        }
        Fleet { dealt }
    }

    pub(crate) fn services(&self) -> usize {
        self.dealt.last().map_or(0, |last| last + 1)
    }

    /// How many instances the largest service has.
    pub(crate) fn largest(&self) -> usize {
        self.dealt.iter().take_while(|service| **service == 0).count() * APPLICATION
    }

    /// The services of one instance.
    pub(crate) fn services_of(&self, instance: usize) -> impl Iterator<Item = usize> + '_ {
        let application = instance / APPLICATION;
        (0..EACH).map(move |round| self.dealt[round * APPLICATIONS + application])
    }

    pub(crate) fn name(&self, instance: usize) -> String {
        format!(
            "application-{:04}/10.{}.{}.{}:7000",
            instance / APPLICATION,
            instance >> 16,
            instance >> 8 & 255,
            instance & 255
        )
    }

    /// The number in a name.
    pub(crate) fn number(&self, name: &str) -> Option<usize> {
        let address = name.split_once('/')?.1.split_once(':')?.0;
        let mut parts = address.split('.').skip(1).map(|part| part.parse::<usize>().ok());
        Some(parts.next()?? << 16 | parts.next()?? << 8 | parts.next()??)
    }

    pub(crate) fn lease(&self, instance: usize, sequence: u64) -> Lease {
        let host = format!("10.{}.{}.{}", instance >> 16, instance >> 8 & 255, instance & 255);
        let provided = |service: usize| ProvidedService {
            name: format!("com.example.team{:02}.v1.Service{service:05}", service % 40),
            implementation: String::new(),
            schema_hash: format!("{:064x}", service),
        };
        Lease {
            namespace: "prod".into(),
            application: format!("application-{:04}", instance / APPLICATION),
            instance: self.name(instance),
            incarnation: 1_700_000_000_000 + instance as u64,
            sequence,
            address: format!("{host}:7000"),
            admin_address: format!("{host}:7001"),
            zone: ["north", "south", "west"][instance % 3].into(),
            tags: [("stage".to_owned(), "stable".to_owned())].into(),
            weight: 100 + u32::try_from(sequence % 100).unwrap_or(0),
            services: self.services_of(instance).map(provided).collect(),
            state: LeaseState::Up.into(),
            version: "2.31.4".into(),
        }
    }
}
