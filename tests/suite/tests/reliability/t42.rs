//! T42: one instance of ten fails every call at once, while the others need their time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rsf::{Application, Request, Response, Status};
use rsf_console::model::PatchPolicy;
use rsf_core::control::Scope;
use rsf_suite::{Case, Kind, Lists, MEMBERS, SOON, Site, members};
use rsf_testkit::eventually;
use shop::v1::{
    GetMemberRequest, Member, MemberService, MemberServiceClient, MemberServiceServer, RegisterMemberRequest,
};
use tokio::time::sleep;

use crate::open_loop::open_loop;

/// Calls a second.
const RATE: u64 = 300;
/// What a handler takes that does its work.
const HANDLING: Duration = Duration::from_millis(10);
const FAILING: Duration = Duration::from_secs(12);
/// Between two rows, for all to be forgotten.
const WELL: Duration = Duration::from_secs(12);
const BAR_PERCENT: f64 = 99.9;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t42_embedded() {
    let mut case = Case::begin("T42");
    let site = Site::start(Kind::Embedded).await;
    let fleet = Fleet::start(&site).await;
    let rows = [
        ("breaker", true, 3),
        ("no_breaker", false, 3),
        ("breaker_one_attempt", true, 1),
        ("no_breaker_one_attempt", false, 1),
    ];
    for (name, breaker, attempts) in rows {
        fleet.govern(&site, "least_pending", breaker, attempts).await;
        let success = fleet.fail(&mut case, name).await;
        if attempts > 1 && breaker {
            case.hold(
                format!("{success:.3} % of the calls succeed"),
                success >= BAR_PERCENT,
            );
        }
    }
    fleet.stop().await;
    site.stop().await;
    case.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t42_control_at_random() {
    let mut case = Case::begin("T42-control");
    let site = Site::start(Kind::Embedded).await;
    let fleet = Fleet::start(&site).await;
    fleet.govern(&site, "random", false, 1).await;
    let success = fleet.fail(&mut case, "random").await;
    case.hold(
        format!("{success:.3} % of the calls succeed"),
        success >= BAR_PERCENT,
    );
    fleet.stop().await;
    site.stop().await;
    case.end_red();
}

/// Ten instances, the first of which can be told to fail, and their consumer.
struct Fleet {
    providers: Vec<Application>,
    customers: Application,
    failing: Arc<AtomicBool>,
    failed: Arc<AtomicU64>,
}

impl Fleet {
    async fn start(site: &Site) -> Fleet {
        let (failing, failed) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut providers = Vec::new();
        let names: Vec<_> = (0..10).map(|number| format!("m{number}")).collect();
        for name in &names {
            let members = Members {
                failing: (name == "m0").then(|| failing.clone()),
                failed: failed.clone(),
            };
            let provider = site.application(name).service(MemberServiceServer::new(members));
            providers.push(provider.start().await.expect("a provider starts"));
        }
        let customers = site.consumer("customers").await;
        let ids: Vec<_> = names.iter().map(|name| format!("{name}/{name}")).collect();
        let ids: Vec<_> = ids.iter().map(String::as_str).collect();
        Lists::become_these(&customers, &ids, SOON).await;
        Fleet {
            providers,
            customers,
            failing,
            failed,
        }
    }

    async fn govern(&self, site: &Site, balance: &str, breaker: bool, attempts: u32) {
        let change = PatchPolicy {
            assignments: vec![
                format!("call.balance={balance}"),
                format!("call.node_breaker.enabled={breaker}"),
                format!("call.retry.attempts={attempts}"),
            ],
            ..PatchPolicy::default()
        };
        let scope = Scope::Service(MEMBERS.to_owned());
        let changed = site.console().patch(&scope, &change).await;
        changed.expect("the change is accepted");
        eventually(SOON, async || {
            let call = members(&self.customers).view().policies["Get"].call.clone();
            match call.node_breaker.enabled == breaker && call.retry.attempts == attempts {
                true => Ok(()),
                false => Err("the policy is not in force yet"),
            }
        })
        .await;
    }

    /// The share of the calls that succeed while the one fails, from its first failure on, in percent.
    async fn fail(&self, case: &mut Case, row: &str) -> f64 {
        let client: MemberServiceClient = self.customers.client();
        let call = move |_| {
            let call = client.get(GetMemberRequest { id: 1 }).into_future();
            async move { call.await.map(drop) }
        };
        open_loop(RATE, WELL, call.clone()).await;
        let before = self.failed.load(Ordering::Relaxed);
        self.failing.store(true, Ordering::Relaxed);
        let ended = open_loop(RATE, FAILING, call).await;
        self.failing.store(false, Ordering::Relaxed);
        let went_there = self.failed.load(Ordering::Relaxed) - before;
        let good = ended.iter().filter(|call| call.failed.is_none()).count();
        let success = good as f64 * 100.0 / ended.len() as f64;
        case.figure(&format!("{row}_calls"), ended.len());
        case.figure(&format!("{row}_success_percent"), format!("{success:.3}"));
        case.figure(&format!("{row}_attempts_there"), went_there);
        case.hold(format!("{row}: the failing one is called at all"), went_there > 0);
        success
    }

    async fn stop(self) {
        self.customers.shutdown().await;
        for provider in self.providers {
            provider.shutdown().await;
        }
    }
}

struct Members {
    /// Whether it is the one, and fails now.
    failing: Option<Arc<AtomicBool>>,
    failed: Arc<AtomicU64>,
}

impl MemberService for Members {
    async fn get(&self, request: Request<GetMemberRequest>) -> Result<Response<Member>, Status> {
        if self
            .failing
            .as_ref()
            .is_some_and(|failing| failing.load(Ordering::Relaxed))
        {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return Err(Status::unavailable("the disk is full"));
        }
        sleep(HANDLING).await;
        Ok(Response::new(Member {
            id: request.get_ref().id,
            ..Member::default()
        }))
    }

    async fn register(&self, _: Request<RegisterMemberRequest>) -> Result<Response<Member>, Status> {
        Err(Status::unimplemented("nobody registers here"))
    }
}
