//! One instance of the demo shop as a process.

use std::time::Duration;

use rsf_testkit::{Process, Program};

use crate::SOON;

/// What a graceful end may take: the notice to consumers, running calls, the lease.
const GRACE: Duration = Duration::from_secs(40);

/// A provider of the shop's three services. It takes a new port with each start.
#[derive(Debug)]
pub struct Provider {
    name: String,
    program: Program,
    process: Process,
    address: String,
    admin: String,
}

impl Provider {
    pub(crate) async fn start(name: &str, program: Program) -> Provider {
        let (process, address, admin) = launch(&program).await;
        Provider {
            name: name.to_owned(),
            program,
            process,
            address,
            admin,
        }
    }

    /// Its instance id, `shop/<name>`.
    pub fn instance(&self) -> String {
        format!("shop/{}", self.name)
    }

    /// `host:port` for calls.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The process, for its id and its log.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Kills it (SIGKILL).
    pub async fn kill9(&self) {
        self.process.kill9().await;
    }

    /// Ends it in good order (SIGTERM).
    ///
    /// # Panics
    /// When it takes too long or fails.
    pub async fn stop(&self) {
        let status = self.process.terminate(GRACE).await;
        assert!(status.success(), "a graceful end fails\n{}", self.process.log());
    }

    /// Starts it again under the same name, after it was killed or stopped.
    pub async fn restart(&mut self) {
        (self.process, self.address, self.admin) = launch(&self.program).await;
    }

    /// Calls that it has answered since its start, by its own metrics.
    pub async fn answered(&self) -> u64 {
        let text = self.admin_page("metrics").await;
        text.lines()
            .filter(|line| line.starts_with("rpc_server_call_duration_seconds_count"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }

    /// Whether its lease is in the registry, as far as it knows itself.
    pub async fn registered(&self) -> bool {
        let text = self.admin_page("status").await;
        let status: serde_json::Value = serde_json::from_str(&text).expect("the status is JSON");
        status["registered"]
            .as_bool()
            .expect("the status says whether it is registered")
    }

    async fn admin_page(&self, name: &str) -> String {
        let url = format!("{}/{name}", self.admin);
        let text = async { reqwest::get(&url).await?.error_for_status()?.text().await };
        text.await.unwrap_or_else(|error| panic!("{url}: {error}"))
    }
}

async fn launch(program: &Program) -> (Process, String, String) {
    let process = program.clone().start();
    let line = process.line(" serves on ", SOON).await;
    // `shop/a serves on 127.0.0.1:7001, admin on http://127.0.0.1:7002`
    let places = line
        .split_once(" serves on ")
        .and_then(|(_, places)| places.split_once(", admin on "));
    let (address, admin) = places.unwrap_or_else(|| panic!("{process} says {line:?}"));
    let (address, admin) = (address.to_owned(), admin.to_owned());
    (process, address, admin)
}
