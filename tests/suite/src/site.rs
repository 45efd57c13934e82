//! One control plane of RSF as real processes, without the demo shop.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rsf::{Application, ApplicationBuilder, Settings};
use rsf_console::ConsoleClient;
use rsf_registry::RegistryUrl;
use rsf_testkit::{Ensemble, Process, Program, RedisServer, TempDir, ZooKeeper, free_port};
use tokio::net::TcpStream;

use crate::{Provider, SOON};

/// The namespace of every site.
const NAMESPACE: &str = "suite";
/// The place of the process that pumps among a site's.
const PUMP: usize = 0;
/// The place of a cluster's console among them.
const CONSOLE: usize = 1;
/// What a process gets to end by itself after SIGTERM.
const GRACE: Duration = Duration::from_secs(40);

/// Where the registry is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `rsf dev --no-shop`: everything in one process.
    Embedded,
    /// Real Redis and ZooKeeper; pump, console and adapter as processes of their own.
    Cluster,
}

/// What a site has beside the usual.
#[derive(Debug, Clone, Copy)]
pub struct SiteOptions {
    /// How many Redis servers a cluster has; instances share them out among themselves.
    pub redis: usize,
    /// How many ZooKeeper servers a cluster has; several vote among themselves.
    pub zookeepers: usize,
    /// More lines of the table `[pump]` in a cluster's `pump.toml`.
    pub pump: &'static str,
    /// How long leases live without renewal, in milliseconds: short, so that tests need not wait long for an end. The
    /// pump reads all leases as often.
    pub lease_ttl_ms: u64,
}

impl Default for SiteOptions {
    fn default() -> Self {
        SiteOptions {
            redis: 1,
            zookeepers: 1,
            pump: "",
            lease_ttl_ms: 4_000,
        }
    }
}

/// A control plane of its own for a test. Its ports and its state stay the same over restarts.
#[derive(Debug)]
pub struct Site {
    kind: Kind,
    options: SiteOptions,
    folder: TempDir,
    ports: Ports,
    stores: Option<Stores>,
    /// RSF's own processes, in the order in which they start; empty while they are down.
    processes: Vec<Process>,
}

#[derive(Debug)]
struct Stores {
    redis: Vec<RedisServer>,
    zookeeper: Ensemble,
}

#[derive(Debug)]
struct Ports {
    registry: u16,
    pump: u16,
    console: u16,
    adapter: u16,
}

impl Site {
    /// Starts it and returns when everything answers.
    ///
    /// # Panics
    /// When something does not come up; so do all methods that start or end processes.
    pub async fn start(kind: Kind) -> Site {
        Site::start_with(kind, SiteOptions::default()).await
    }

    /// As [`start`](Self::start), with `options`.
    pub async fn start_with(kind: Kind, options: SiteOptions) -> Site {
        let folder = TempDir::new("site");
        let stores = match kind {
            Kind::Embedded => None,
            Kind::Cluster => {
                let (redis, zookeeper) = tokio::join!(redis(options.redis), zookeeper(options.zookeepers));
                Some(Stores { redis, zookeeper })
            }
        };
        let ports = Ports {
            registry: free_port(),
            pump: free_port(),
            console: free_port(),
            adapter: free_port(),
        };
        let mut site = Site {
            kind,
            options,
            folder,
            ports,
            stores,
            processes: Vec::new(),
        };
        if kind == Kind::Cluster {
            site.write_files();
        }
        site.start_processes().await;
        site
    }

    /// Where its registry is kept.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// `RSF_REGISTRY`, the embedded registry's token included.
    pub fn registry(&self) -> String {
        match &self.stores {
            None => {
                let token = fs::read_to_string(self.state("control").join("dev/registry-token"));
                let token = token.expect("the registry's token file");
                format!("rsf://{token}@{}", local(self.ports.registry))
            }
            Some(stores) => {
                let servers = stores.redis.iter().map(RedisServer::url);
                let all: Vec<String> = servers.chain([stores.zookeeper.url()]).collect();
                all.join(",")
            }
        }
    }

    /// The same as it may stand in messages: without credentials.
    pub fn registry_shown(&self) -> String {
        let url: RegistryUrl = self.registry().parse().expect("the site's own registry");
        url.to_string()
    }

    /// `RSF_NAMESPACE`.
    pub fn namespace(&self) -> &'static str {
        NAMESPACE
    }

    /// How long leases live without renewal.
    pub fn lease_ttl(&self) -> Duration {
        Duration::from_millis(self.options.lease_ttl_ms)
    }

    /// `http://host:port` of the console.
    pub fn console_url(&self) -> String {
        format!("http://{}", local(self.ports.console))
    }

    /// `http://host:port` of the HTTP adapter.
    pub fn adapter_url(&self) -> String {
        format!("http://{}", local(self.ports.adapter))
    }

    /// The file with the console's token.
    pub fn token_file(&self) -> PathBuf {
        match self.kind {
            Kind::Embedded => self.state("control").join("dev/token"),
            Kind::Cluster => self.folder.join("token"),
        }
    }

    /// A client of the console that has the token.
    pub fn console(&self) -> ConsoleClient {
        let token = fs::read_to_string(self.token_file()).expect("the console's token file");
        ConsoleClient::new(&self.console_url(), &token).expect("the console's address")
    }

    /// A folder for the state of the process called `name` (`RSF_STATE`); the same one for the same name.
    pub fn state(&self, name: &str) -> PathBuf {
        self.folder.join(format!("state-{name}"))
    }

    /// Settings of a process in the test, whose state is in [`state`](Self::state) of `name`.
    pub fn settings(&self, name: &str) -> Settings {
        Settings {
            registry: Some(self.registry()),
            namespace: Some(NAMESPACE.to_owned()),
            instance: Some(name.to_owned()),
            state: Some(self.state(name)),
            lease_ttl_ms: Some(self.options.lease_ttl_ms),
            ..Settings::default()
        }
    }

    /// An application in the test, of the same name as its instance and its state.
    pub fn application(&self, name: &str) -> ApplicationBuilder {
        Application::builder(name).settings(self.settings(name))
    }

    /// A pure consumer in the test, started; it may or may not have registered yet.
    pub async fn consumer(&self, name: &str) -> Application {
        self.application(name).start().await.expect("a consumer starts")
    }

    /// Starts an instance of the shop called `shop/<name>`, with more environment variables.
    pub async fn provider(&self, name: &str, environment: &[(&str, &str)]) -> Provider {
        let program = self.tell(
            Program::workspace("shop-provider").name(format!("provider-{name}")),
            name,
        );
        let program = program.env("RSF_INSTANCE", name).env("RUST_LOG", "info");
        let program = environment
            .iter()
            .fold(program, |program, (key, value)| program.env(key, value));
        Provider::start(name, program).await
    }

    /// The program `shop-consumer`, told where the registry is, as the instance called `name`.
    pub fn customers(&self, name: &str) -> Program {
        let program = Program::workspace("shop-consumer").name(format!("consumer-{name}"));
        self.tell(program, name).env("RSF_INSTANCE", name)
    }

    /// The program `rsf`, told where the registry is; its state is in [`state`](Self::state) of `name`.
    pub fn rsf(&self, name: &str) -> Program {
        self.tell(Program::workspace("rsf").name(name), name)
    }

    /// The cluster's Redis; the first of several.
    ///
    /// # Panics
    /// Where the registry is embedded.
    pub fn redis(&mut self) -> &mut RedisServer {
        &mut self.stores.as_mut().expect("a cluster").redis[0]
    }

    /// The cluster's ZooKeeper servers.
    ///
    /// # Panics
    /// Where the registry is embedded.
    pub fn zookeepers(&mut self) -> &mut Ensemble {
        &mut self.stores.as_mut().expect("a cluster").zookeeper
    }

    /// The process that pumps: the cluster's pump, or `rsf dev` as a whole.
    pub fn pump(&self) -> &Process {
        &self.processes[PUMP]
    }

    /// Kills (SIGKILL) the process that pumps and starts it again, with its state.
    pub async fn restart_pump(&mut self) {
        self.pump().kill9().await;
        self.processes[PUMP] = self.programs().swap_remove(PUMP).start();
    }

    /// Starts the console anew with an empty database, as after the loss of its disk.
    pub async fn lose_the_consoles_database(&mut self) {
        self.processes[CONSOLE].kill9().await;
        for end in ["", "-wal", "-shm"] {
            let file = self.folder.join(format!("console.sqlite{end}"));
            if file.exists() {
                fs::remove_file(&file).expect("the console's database");
            }
        }
        self.processes[CONSOLE] = self.programs().swap_remove(CONSOLE).start();
        self.all_answer().await;
    }

    /// Starts another pump of this site, which stands by, and returns it with the address of its admin port.
    pub async fn standby_pump(&self, name: &str) -> (Process, String) {
        let admin = local(free_port()).to_string();
        let pump = self.pump_program(&admin, name).start();
        pump.line("admin port", SOON).await;
        (pump, format!("http://{admin}"))
    }

    /// What the pump says of itself, by the console.
    ///
    /// # Errors
    /// Why there is none now.
    pub async fn pump_status(&self) -> Result<serde_json::Value, String> {
        let status = self.console().pump().await;
        status.map_err(|error| error.to_string())
    }

    /// Kills (SIGKILL) all of the control plane: stores, pump, console, adapter.
    pub async fn kill_control_plane(&mut self) {
        if let Some(stores) = &self.stores {
            for redis in &stores.redis {
                redis.kill9().await;
            }
            stores.zookeeper.kill9().await;
        }
        for process in &self.processes {
            process.kill9().await;
        }
        self.processes.clear();
    }

    /// Brings back what was killed, on the same ports and state, and returns when everything answers.
    pub async fn restart_control_plane(&mut self) {
        if let Some(stores) = &mut self.stores {
            for redis in &mut stores.redis {
                redis.restart().await;
            }
            stores.zookeeper.restart().await;
        }
        self.start_processes().await;
    }

    /// Restarts pump, console and adapter in good order, one after the other; `rsf dev` as a whole.
    ///
    /// # Panics
    /// When one does not end in good order or does not come back.
    pub async fn roll_control_plane(&mut self) {
        for (place, program) in self.programs().into_iter().enumerate() {
            let process = &self.processes[place];
            let status = process.terminate(GRACE).await;
            assert!(status.success(), "{process} does not end well\n{}", process.log());
            self.processes[place] = program.start();
            self.all_answer().await;
        }
    }

    /// Ends it in good order (SIGTERM), consumers and providers apart.
    pub async fn stop(self) {
        for process in self.processes.iter().rev() {
            let status = process.terminate(GRACE).await;
            assert!(
                status.success(),
                "{process} does not end in good order\n{}",
                process.log()
            );
        }
    }

    /// What all processes were told.
    fn tell(&self, program: Program, name: &str) -> Program {
        program
            .env("RSF_REGISTRY", self.registry())
            .env("RSF_NAMESPACE", NAMESPACE)
            .env("RSF_STATE", self.state(name))
            .env("RSF_LEASE_TTL_MS", self.options.lease_ttl_ms.to_string())
    }

    async fn start_processes(&mut self) {
        self.processes = self.programs().into_iter().map(Program::start).collect();
        self.all_answer().await;
    }

    /// What runs beside the stores, in the order in which it starts.
    fn programs(&self) -> Vec<Program> {
        match self.kind {
            Kind::Embedded => vec![self.dev()],
            Kind::Cluster => self.separate(),
        }
    }

    async fn all_answer(&self) {
        let last = self.processes.len() - 1;
        let adapter = local(self.ports.adapter);
        let answers = async || TcpStream::connect(adapter).await.map(drop);
        self.processes[last]
            .ready("the adapter's port", SOON, answers)
            .await;
        // In `rsf dev` the file comes into being with the process, so it is read only now.
        let console = match self.kind {
            Kind::Embedded => 0,
            Kind::Cluster => 1,
        };
        let client = self.console();
        self.processes[console]
            .ready("the console's answer", SOON, async || client.status().await)
            .await;
    }

    fn dev(&self) -> Program {
        let port = |port: u16| port.to_string();
        // It is told no registry: it is one.
        Program::workspace("rsf")
            .name("dev")
            .args(["dev", "--no-shop", "--namespace", NAMESPACE])
            .args(["--lease-ttl-ms", &self.options.lease_ttl_ms.to_string()])
            .args(["--registry-port", &port(self.ports.registry)])
            .args(["--console-port", &port(self.ports.console)])
            .args(["--adapter-port", &port(self.ports.adapter)])
            .args(["--pump-port", &port(self.ports.pump)])
            .env("RSF_STATE", self.state("control"))
            .env("RSF_LOG", "info")
    }

    fn separate(&self) -> Vec<Program> {
        let (pump, console) = (local(self.ports.pump), local(self.ports.console));
        let rsf = |name: &str| self.rsf(name).env("RSF_LOG", "info").arg(name);
        let pump_process = self.pump_program(&pump.to_string(), "pump");
        let console_process = rsf("console")
            .args(["--listen", &console.to_string()])
            .args(["--database", text(&self.folder.join("console.sqlite"))])
            .args(["--token-file", text(&self.token_file())])
            .args(["--pump", &format!("http://{pump}")]);
        let adapter_process = rsf("adapter").args(["--listen", &local(self.ports.adapter).to_string()]);
        vec![pump_process, console_process, adapter_process]
    }

    fn pump_program(&self, admin: &str, name: &str) -> Program {
        self.rsf(name)
            .env("RSF_LOG", "info")
            .args(["pump", "--admin", admin, "--name", name])
            .args(["--config", text(&self.folder.join("pump.toml"))])
            .args(["--state-file", text(&self.folder.join(format!("{name}.state")))])
    }

    /// What an operator writes before the first start.
    fn write_files(&self) {
        let pump = format!(
            "[pump]\nlease_ttl_ms = {0}\nsweep_ms = {0}\n{1}",
            self.options.lease_ttl_ms, self.options.pump
        );
        fs::write(self.folder.join("pump.toml"), pump).expect("the pump's configuration");
        let token: String = std::iter::repeat_with(fastrand::alphanumeric).take(40).collect();
        let mut options = fs::File::options();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.token_file());
        file.and_then(|mut file| file.write_all(token.as_bytes()))
            .expect("the console's token file");
    }
}

async fn redis(servers: usize) -> Vec<RedisServer> {
    let mut started = Vec::new();
    for _ in 0..servers {
        started.push(RedisServer::start().await);
    }
    started
}

async fn zookeeper(servers: usize) -> Ensemble {
    match servers {
        1 => Ensemble {
            servers: vec![ZooKeeper::start().await],
        },
        several => ZooKeeper::ensemble(several).await,
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("test folders have plain names")
}
