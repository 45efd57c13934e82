//! The usual ground of the control path's cases: a site, a simulated fleet, real providers, a consumer, and calls.

use std::time::Duration;

use rsf::Application;
use rsf_console::model::PatchPolicy;
use rsf_core::control::Scope;
use rsf_suite::{Case, Fleet, FleetLists, Kind, Lists, Load, MEMBERS, Provider, SOON, Site, SiteOptions};
use rsf_testkit::eventually;

/// Calls a second.
pub(crate) const RATE: u32 = 200;
/// Time for a call: more than a busy machine needs, since what is judged is whether calls fail for want of the control
/// plane.
pub(crate) const PATIENT_MS: u64 = 10_000;
/// The real providers.
pub(crate) const THREE: [&str; 3] = ["shop/1", "shop/2", "shop/3"];

/// Everything that runs before something is broken.
pub(crate) struct Ground {
    pub(crate) site: Site,
    /// They live as long as the ground.
    _providers: [Provider; 3],
    pub(crate) customers: Application,
    pub(crate) fleet: Fleet,
}

/// What is watched while something is broken.
pub(crate) struct Watched {
    load: Load,
    list: Lists,
    pub(crate) fleet: FleetLists,
}

impl Ground {
    pub(crate) async fn start_with(kind: Kind, options: SiteOptions) -> Ground {
        let site = Site::start_with(kind, options).await;
        let (providers, customers) = three_and_customers(&site).await;
        let (nodes, services) = size(kind);
        let fleet = Fleet::start(&site, nodes, services).await;
        Ground {
            site,
            _providers: providers,
            customers,
            fleet,
        }
    }

    pub(crate) async fn watch(&self) -> Watched {
        let fleet = FleetLists::watch(&self.fleet).await;
        Watched {
            load: Load::start(&self.customers, RATE).await,
            list: Lists::watch(&self.customers),
            fleet,
        }
    }

    /// Waits until the pump trusts its source and every lease is confirmed.
    pub(crate) async fn confirmed(&self) {
        eventually(SOON, async || {
            let status = self.site.pump_status().await?;
            let ready = status["ready"] == true && status["unconfirmed"] == 0;
            ready.then_some(()).ok_or_else(|| status.to_string())
        })
        .await;
    }

    pub(crate) async fn end(self) {
        self.customers.shutdown().await;
        self.site.stop().await;
    }
}

impl Watched {
    /// Ends the calls and says what became of them and of the lists. The list of the real providers must never have
    /// been shorter than `shortest`.
    pub(crate) async fn judge(self, case: &mut Case, shortest: usize) {
        let seen = self.list.shortest().await;
        let report = self.load.stop().await;
        case.load(&report);
        let failures = &report.failures;
        case.hold(format!("calls failed: {failures:?}"), report.total.failed == 0);
        case.hold(
            format!("the consumer's list had {seen} of {shortest} instances"),
            seen >= shortest,
        );
        self.fleet.judge(case);
    }
}

/// Simulated instances and their services. An embedded registry, which is for small sites, has fewer.
fn size(kind: Kind) -> (usize, usize) {
    match kind {
        Kind::Embedded => (40, 20),
        Kind::Cluster => (200, 100),
    }
}

/// The three real providers, and a consumer that knows them and gives its calls all the time they need.
pub(crate) async fn three_and_customers(site: &Site) -> ([Provider; 3], Application) {
    let providers = tokio::join!(
        site.provider("1", &[]),
        site.provider("2", &[]),
        site.provider("3", &[])
    );
    let customers = site.consumer("customers").await;
    Lists::become_these(&customers, &THREE, SOON).await;
    patient(site).await;
    (providers.into(), customers)
}

/// Gives calls all the time they need, in a policy that every consumer has.
pub(crate) async fn patient(site: &Site) {
    assign(site, &[&format!("call.timeout_ms={PATIENT_MS}")]).await;
}

/// Sets what these assignments say for both services of the shop.
pub(crate) async fn assign(site: &Site, assignments: &[&str]) {
    let change = PatchPolicy {
        assignments: assignments
            .iter()
            .map(|&assignment| assignment.to_owned())
            .collect(),
        ..PatchPolicy::default()
    };
    for service in [MEMBERS, "shop.v1.StockService"] {
        let changed = site
            .console()
            .patch(&Scope::Service(service.to_owned()), &change)
            .await;
        changed.expect("the change is accepted");
    }
}

/// Seconds with one place, for a case's line.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64())
}
