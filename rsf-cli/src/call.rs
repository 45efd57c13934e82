//! `rsf call`: one governed call with JSON in and out.

use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use rsf::{Application, Bytes, Call, Channel, Metadata, RawMessage, Settings};
use rsf_adapter_http::DirectorySchemas;
use rsf_adapter_http::invoke::JsonMethod;

use crate::Failure;

/// The name under which `rsf call` calls; policies and authorization go by it.
const APPLICATION: &str = "rsf-cli";
/// How long the directory gets to name an instance of the service.
pub(crate) const FIND: Duration = Duration::from_secs(5);

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
    /// What the call is about, for shards and consistent hashing [default: the request's field, where the method names one]
    #[arg(long)]
    routing_key: Option<String>,
    /// The data centre or machine room that the call is made from; rules by zone go by it
    #[arg(long, env = "RSF_ZONE")]
    zone: Option<String>,
    /// rsf://host:port, or redis://host:port,zk://host:port [default: the one of `rsf dev`]
    #[arg(long, env = "RSF_REGISTRY")]
    registry: Option<String>,
    /// The environment
    #[arg(long, env = "RSF_NAMESPACE")]
    namespace: Option<String>,
}

/// A call that is ready to be made.
pub(crate) struct Prepared<'a> {
    pub(crate) app: &'a Application,
    pub(crate) channel: Channel,
    pub(crate) method: JsonMethod,
    pub(crate) message: Bytes,
    pub(crate) metadata: Metadata,
    arguments: &'a CallArguments,
}

impl Prepared<'_> {
    /// The call as the arguments want it.
    pub(crate) fn call(&self) -> Call<RawMessage> {
        let (number, message) = (self.method.number(), self.message.clone());
        let mut call = self.channel.call_raw(number, message, self.metadata.clone());
        if let Some(limit) = self.arguments.timeout_ms {
            call = call.timeout(Duration::from_millis(limit));
        }
        if let Some(id) = &self.arguments.request_id {
            call = call.request_id(id);
        }
        match self.routing_key() {
            Some(key) => call.routing_key(key),
            None => call,
        }
    }

    pub(crate) fn routing_key(&self) -> Option<&str> {
        self.arguments.routing_key.as_deref()
    }
}

pub(crate) async fn run(arguments: CallArguments) -> Result<ExitCode, Failure> {
    prepared(&arguments, call).await
}

/// Starts the application, finds the method, and gives the lease back however `then` ends.
pub(crate) async fn prepared(
    arguments: &CallArguments,
    then: impl AsyncFnOnce(Prepared<'_>) -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
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
        zone: arguments.zone.clone(),
        ..Settings::default()
    };
    let app = Application::builder(APPLICATION)
        .settings(settings)
        .start()
        .await?;
    let code = async {
        let schemas = DirectorySchemas::new(app.registry().directory.clone());
        let found = JsonMethod::find(&schemas, service, method, FIND).await?;
        let (_, implementation) = service.split_once(':').unwrap_or((service, ""));
        let prepared = Prepared {
            app: &app,
            channel: app.channel(found.service(), implementation),
            message: found.encode(&request)?,
            method: found,
            metadata,
            arguments,
        };
        then(prepared).await
    };
    let code = code.await;
    app.shutdown().await;
    code
}

async fn call(prepared: Prepared<'_>) -> Result<ExitCode, Failure> {
    let error = match prepared.call().await {
        Ok(reply) => {
            println!("{}", prepared.method.decode(reply.into_inner().0)?);
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
