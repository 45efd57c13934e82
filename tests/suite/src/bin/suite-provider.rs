//! `suite-provider`: one instance that provides the probe service, configured by `RSF_*`.

use rsf::Application;
use rsf_suite::{ProbeServer, Prober};

#[tokio::main(flavor = "current_thread")]
#[allow(clippy::print_stdout, reason = "the suites read where it runs")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let application = Application::builder("probe")
        .service(ProbeServer::new(Prober::default()))
        .start()
        .await?;
    println!(
        "{} serves on {}, admin on http://{}",
        application.instance(),
        application.address(),
        application.admin_address()
    );
    application.run_until_signal().await?;
    Ok(())
}
