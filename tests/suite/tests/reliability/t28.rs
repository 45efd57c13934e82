//! T28: all providers fail for 30 s, then are well again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rsf::{Application, Request, Response, Status};
use rsf_console::model::PatchPolicy;
use rsf_core::control::Scope;
use rsf_suite::{Case, Kind, Lists, MEMBERS, SOON, Site};
use shop::v1::{
    GetMemberRequest, Member, MemberService, MemberServiceClient, MemberServiceServer, RegisterMemberRequest,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

/// Calls a second.
const RATE: u64 = 200;
const OUTAGE: u64 = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t28_embedded() {
    let mut case = Case::begin("T28");
    fail_and_recover(&mut case, None).await;
    case.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t28_control_without_a_budget() {
    let mut case = Case::begin("T28-control");
    let boundless = "call.retry.budget_percent=100";
    fail_and_recover(&mut case, Some(boundless)).await;
    case.end_red();
}

/// A service whose backend may be down.
struct Members {
    down: Arc<AtomicBool>,
    attempts: Arc<AtomicU64>,
}

impl MemberService for Members {
    async fn get(&self, request: Request<GetMemberRequest>) -> Result<Response<Member>, Status> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        if self.down.load(Ordering::Relaxed) {
            return Err(Status::unavailable("the database is down"));
        }
        Ok(Response::new(Member {
            id: request.get_ref().id,
            ..Member::default()
        }))
    }

    async fn register(&self, _: Request<RegisterMemberRequest>) -> Result<Response<Member>, Status> {
        Err(Status::unimplemented("nobody registers here"))
    }
}

async fn fail_and_recover(case: &mut Case, policy: Option<&str>) {
    let site = Site::start(Kind::Embedded).await;
    let (down, attempts) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let mut providers = Vec::new();
    for name in ["one", "two", "three"] {
        let members = Members {
            down: down.clone(),
            attempts: attempts.clone(),
        };
        let provider = site.application(name).service(MemberServiceServer::new(members));
        providers.push(provider.start().await.expect("a provider starts"));
    }
    let customers = site.consumer("customers").await;
    Lists::become_these(&customers, &["one/one", "three/three", "two/two"], SOON).await;
    if let Some(assignment) = policy {
        let change = PatchPolicy {
            assignments: vec![assignment.to_owned()],
            ..PatchPolicy::default()
        };
        let scope = Scope::Service(MEMBERS.to_owned());
        let changed = site.console().patch(&scope, &change).await;
        changed.expect("the change is accepted");
    }
    let (offered, good) = calls(&customers, 12).await;
    case.hold(format!("{good} of {offered} are good before"), good == offered);
    let before = attempts.load(Ordering::Relaxed);
    down.store(true, Ordering::Relaxed);
    let (offered, _) = calls(&customers, OUTAGE).await;
    down.store(false, Ordering::Relaxed);
    let made = attempts.load(Ordering::Relaxed) - before;
    // The budget goes by the calls of the ten seconds before each withdrawal, and 30 s are three times ten: an even load takes
    // all of it to the last attempt. This one is a little uneven: ticks that come late fall into the next ten seconds.
    let late = offered as f64 * 0.01;
    let most = offered as f64 * 1.2 + (10 * OUTAGE) as f64 + late;
    case.figure("offered", offered);
    case.figure("attempts", made);
    case.figure("most", most);
    case.hold(format!("{made} attempts, at most {most}"), made as f64 <= most);
    sleep(Duration::from_secs(10)).await;
    let (offered, good) = calls(&customers, 3).await;
    case.figure("good_after", format!("{good}/{offered}"));
    case.hold("99 % are good 10 s after", good as f64 >= 0.99 * offered as f64);
    customers.shutdown().await;
    for provider in providers {
        provider.shutdown().await;
    }
    site.stop().await;
}

/// Calls at a steady rate for so many seconds; returns the calls and those that succeeded.
async fn calls(customers: &Application, seconds: u64) -> (u64, u64) {
    let members: MemberServiceClient = customers.client();
    let mut ticks = interval(Duration::from_millis(1000 / RATE));
    let mut calls = JoinSet::new();
    let end = Instant::now() + Duration::from_secs(seconds);
    while ticks.tick().await < end {
        calls.spawn(members.get(GetMemberRequest { id: 1 }).into_future());
    }
    let offered = calls.len() as u64;
    let results = calls.join_all().await;
    (
        offered,
        results.iter().filter(|result| result.is_ok()).count() as u64,
    )
}
