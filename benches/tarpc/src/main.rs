//! tarpc over TCP with bincode, called and served as RSF's benchmark calls and serves its other peers: the same roles, loads
//! and clocks, whose files it shares.

#[path = "../../rpc/cpu.rs"]
#[allow(dead_code, reason = "the benchmark uses the rest")]
mod cpu;
#[path = "../../rpc/load.rs"]
mod load;
#[path = "../../rpc/plan.rs"]
#[allow(dead_code, reason = "the benchmark uses the rest")]
mod plan;
#[path = "../../rpc/resident.rs"]
#[allow(dead_code, reason = "the benchmark uses the rest")]
mod resident;
#[path = "../../rpc/role.rs"]
mod role;

mod peers;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Error> = std::result::Result<T, E>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["server", spec] => role::server(&serde_json::from_str(spec)?),
        ["client", spec] => role::client(&serde_json::from_str(spec)?),
        _ => Err("RSF's benchmark starts this program: `make bench-wire`".into()),
    }
}
