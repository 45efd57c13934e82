//! A lease store that loses its leases, or all memory of them, while calls go on: T04 to T08.

use std::time::Duration;

use rsf_suite::{Case, Fleet, Kind, SOON, Site, SiteOptions};
use tokio::time::{Instant, sleep};

use crate::ground::{Ground, seconds};

/// Rule R and the pump's distrust after a discontinuity, switched off.
pub(crate) const WITHOUT_PROTECTION: &str = "shrink_enforced = false";

/// How much later than the pump the instances find the store again; the pump asks a store that failed every second.
const LATER: Duration = Duration::from_millis(2_500);

/// Long enough for everybody to be back before it is over, on a busy machine too.
const TTL_MS: u64 = 8_000;

/// Does `fault` to the site while its consumers call, waits until every lease is back, and judges: no call fails, no list
/// shrinks, and everybody is listed again. `pump` are more lines of the pump's configuration.
pub(crate) async fn lose_leases(
    id: &'static str,
    kind: Kind,
    pump: &'static str,
    fault: impl AsyncFnOnce(&mut Site, &Fleet, &mut Case),
) -> Case {
    let mut case = Case::begin(id);
    let options = SiteOptions {
        pump,
        lease_ttl_ms: TTL_MS,
        ..SiteOptions::default()
    };
    let mut ground = Ground::start_with(kind, options).await;
    let watched = ground.watch().await;
    let ttl = ground.site.lease_ttl();
    fault(&mut ground.site, &ground.fleet, &mut case).await;
    // The instances find their way back later than the pump, which therefore sees what is left without them.
    ground.fleet.cut_off(true);
    sleep(LATER).await;
    ground.fleet.cut_off(false);
    let back = Instant::now();
    ground.fleet.kept_since(back).await;
    let leases = back.elapsed();
    ground.confirmed().await;
    watched.fleet.become_right(SOON).await;
    case.figure("leases_back_s", seconds(leases));
    case.figure("recover_s", seconds(back.elapsed()));
    // Two renewals, and what a busy machine takes for them.
    let within = ttl * 2 / 3 + Duration::from_secs(2);
    case.hold(
        format!("all leases are back within {within:?}: {leases:?}"),
        leases <= within,
    );
    // Whatever was held back falls due within a TTL.
    sleep(ttl * 5 / 4).await;
    watched.judge(&mut case, 3).await;
    ground.end().await;
    case
}
