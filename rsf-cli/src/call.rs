//! `rsf call`: one governed call with JSON in and out.

use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use rsf::{Application, Metadata, Settings};
use rsf_adapter_http::DirectorySchemas;
use rsf_adapter_http::invoke::JsonMethod;

use crate::Failure;

/// The name under which `rsf call` calls; policies and authorization go by it.
const APPLICATION: &str = "rsf-cli";
/// How long the directory gets to name an instance of the service.
const FIND: Duration = Duration::from_secs(5);

/// Flags of `rsf call`.
#[derive(Args)]
pub(crate) struct CallArguments {
    /// package.Service/Method, or package.Service:implementation/Method
    method: String,
    /// The request as JSON; `-` reads standard input
    #[arg(default_value = "{}")]
    request: String,
    /// Milliseconds for the whole call, 1 to 3600000 [default: the policy's]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    timeout_ms: Option<u64>,
    /// Metadata, key:value; may be given several times
    #[arg(long = "header", short = 'H')]
    headers: Vec<String>,
    /// Identifies the logical call to dedup
    #[arg(long)]
    request_id: Option<String>,
    /// rsf://host:port, or redis://host:port,zk://host:port [default: the one of `rsf dev`]
    #[arg(long, env = "RSF_REGISTRY")]
    registry: Option<String>,
    /// The environment
    #[arg(long, env = "RSF_NAMESPACE")]
    namespace: Option<String>,
}

pub(crate) async fn run(arguments: CallArguments) -> Result<ExitCode, Failure> {
    let (service, method) = arguments
        .method
        .trim_start_matches('/')
        .rsplit_once('/')
        .ok_or_else(|| format!("`{}` is no package.Service/Method", arguments.method))?;
    let metadata = metadata(&arguments.headers)?;
    let request = match arguments.request.as_str() {
        "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            text
        }
        text => text.to_owned(),
    };
    let settings = Settings {
        registry: arguments.registry.clone(),
        namespace: arguments.namespace.clone(),
        ..Settings::default()
    };
    let app = Application::builder(APPLICATION)
        .settings(settings)
        .start()
        .await?;
    // However the call ends, the lease is given back.
    let code = call(&app, service, method, &request, metadata, &arguments).await;
    app.shutdown().await;
    code
}

async fn call(
    app: &Application,
    service: &str,
    method: &str,
    request: &str,
    metadata: Metadata,
    arguments: &CallArguments,
) -> Result<ExitCode, Failure> {
    let schemas = DirectorySchemas::new(app.registry().directory.clone());
    let found = JsonMethod::find(&schemas, service, method, FIND).await?;
    let message = found.encode(request)?;
    let (_, implementation) = service.split_once(':').unwrap_or((service, ""));
    let channel = app.channel(found.service(), implementation);
    let mut call = channel.call_raw(found.number(), message, metadata);
    if let Some(limit) = arguments.timeout_ms {
        call = call.timeout(Duration::from_millis(limit));
    }
    if let Some(id) = &arguments.request_id {
        call = call.request_id(id);
    }
    let error = match call.await {
        Ok(reply) => {
            println!("{}", found.decode(reply.into_inner().0)?);
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => error,
    };
    eprintln!("{error}");
    for attempt in error.attempts() {
        let reason = attempt.reason.map_or("under way", |reason| reason.name());
        eprintln!(
            "  attempt at {} ended as {reason} after {:?}",
            attempt.instance, attempt.elapsed
        );
    }
    Ok(ExitCode::FAILURE)
}

fn metadata(headers: &[String]) -> Result<Metadata, Failure> {
    let mut metadata = Metadata::new();
    for header in headers {
        let (key, value) = header
            .split_once(':')
            .ok_or_else(|| format!("`{header}` is no key:value"))?;
        metadata.insert(&key.trim().to_ascii_lowercase(), value.trim())?;
    }
    Ok(metadata)
}
