//! The pieces of code that docs/calls.md shows, compiled and run. No registry: a static list names the instance.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::error::Error;
use std::fs;
use std::time::Duration;

use getting_started::{GreeterService, GreeterServiceClient, GreeterServiceServer, HelloReply, HelloRequest};
use rsf::{Application, Request, Response, Settings, Status};
use rsf_testkit::TempDir;

/// Answers with what it knows about the call.
struct Knowing;

impl GreeterService for Knowing {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let context = rsf::Context::current().ok_or_else(|| Status::internal("outside of a call"))?;
        let left = context.remaining(); // until the caller stops waiting
        let caller = context.caller(); // the application, as it named itself
        let id = context.request_id(); // the same for all attempts
        let tenant = request.metadata().get("tenant");
        let text = format!(
            "{caller:?} {id:?} {tenant:?} {}",
            left < Some(Duration::from_secs(5))
        );
        Ok(Response::new(HelloReply { text }))
    }
}

/// Passes greetings on.
struct Relay {
    greeter: GreeterServiceClient,
}

impl GreeterService for Relay {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let reply = self.greeter.hello(request.into_inner()).await?;
        Ok(Response::new(reply.into_inner()))
    }
}

async fn options(greeter: &GreeterServiceClient, name: String) -> Result<String, Box<dyn Error>> {
    let mut request = rsf::Request::new(HelloRequest { name });
    request.metadata_mut().insert("tenant", "north")?;
    let reply = greeter
        .hello(request)
        .timeout(Duration::from_secs(5))
        .request_id("order-4711")
        .await?;
    Ok(reply.into_inner().text)
}

/// An application without a registry, that calls the greeter at `address`.
fn alone(name: &str, folder: &TempDir, address: &str) -> rsf::ApplicationBuilder {
    let list = folder.join(format!("{name}.json"));
    fs::write(
        &list,
        format!(r#"{{"greeting.v1.GreeterService": ["{address}"]}}"#),
    )
    .unwrap();
    Application::builder(name).settings(Settings {
        registry: Some("rsf://127.0.0.1:1".to_owned()),
        namespace: Some("snippets".to_owned()),
        state: Some(folder.join("state")),
        static_instances: Some(list),
        drain_ms: Some(1000),
        ..Settings::default()
    })
}

#[tokio::test]
async fn handlers_see_what_callers_set() {
    let folder = TempDir::new("snippets");
    let knowing = GreeterServiceServer::new(Knowing);
    let provider = alone("greeter", &folder, "127.0.0.1:1")
        .service(knowing)
        .start()
        .await
        .unwrap();
    let visitor = alone("visitor", &folder, provider.address())
        .start()
        .await
        .unwrap();
    let text = options(&visitor.client(), "Ada".to_owned()).await.unwrap();
    assert_eq!(text, r#"Some("visitor") Some("order-4711") Some("north") true"#);
}

#[tokio::test]
async fn handlers_call_other_services() {
    let folder = TempDir::new("relay");
    let knowing = GreeterServiceServer::new(Knowing);
    let provider = alone("greeter", &folder, "127.0.0.1:1")
        .service(knowing)
        .start()
        .await
        .unwrap();
    let builder = alone("relay", &folder, provider.address());
    let relay = builder.service_with(|consumer| {
        let greeter = consumer.client();
        GreeterServiceServer::new(Relay { greeter })
    });
    let relay = relay.start().await.unwrap();
    let visitor = alone("visitor", &folder, relay.address()).start().await.unwrap();
    let text = options(&visitor.client(), "Ada".to_owned()).await.unwrap();
    assert!(text.starts_with(r#"Some("relay")"#), "{text}");
}
