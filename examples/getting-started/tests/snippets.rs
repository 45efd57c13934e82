//! The pieces of code that docs/calls.md shows, compiled and run. No registry: a static list names the instance.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Duration;

use getting_started::{GreeterService, GreeterServiceClient, GreeterServiceServer, HelloReply, HelloRequest};
use rsf::identity::token::unix_seconds;
use rsf::identity::{Claims, SigningKey};
use rsf::{
    Application, Bytes, ClientCall, ClientInterceptor, ClientNext, Code, Frame, Reason, Request, Response,
    RpcError, ServerCall, ServerInterceptor, ServerNext, Settings, Status,
};
use rsf_testkit::TempDir;
use tokio::time::Instant;

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

async fn one_way(greeter: &GreeterServiceClient, name: String) -> Result<(), Box<dyn Error>> {
    greeter.hello(HelloRequest { name }).one_way().await?;
    Ok(())
}

/// Refuses names that are too long before they are sent, and tells how long calls took.
struct ShortNames;

impl ClientInterceptor for ShortNames {
    async fn intercept(
        &self,
        call: &mut ClientCall<'_>,
        next: ClientNext<'_>,
    ) -> Result<Response<Bytes>, RpcError> {
        if call.message().len() > 100 {
            let status = Status::invalid_argument("this name is too long");
            return Err(RpcError::intercepted(status));
        }
        call.metadata_mut().insert("tenant", "north").ok();
        let begun = Instant::now();
        let result = next.run(call).await;
        println!("{} {} took {:?}", call.path(), call.request_id(), begun.elapsed());
        result
    }
}

/// Refuses callers without a tenant.
struct Tenants;

impl ServerInterceptor for Tenants {
    async fn intercept(
        &self,
        call: &mut ServerCall<'_>,
        next: ServerNext<'_>,
    ) -> Result<Response<Frame>, Status> {
        if call.metadata().get("tenant").is_none() {
            return Err(Status::invalid_argument("the metadata `tenant` is missing"));
        }
        next.run(call).await
    }
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
    one_way(&visitor.client(), "Ada".to_owned()).await.unwrap();
}

#[tokio::test]
async fn interceptors_run_around_calls_and_handlers() {
    let folder = TempDir::new("interceptors");
    let provider = alone("greeter", &folder, "127.0.0.1:1")
        .service(GreeterServiceServer::new(Knowing))
        .interceptor(Tenants)
        .start()
        .await
        .unwrap();
    let plain = alone("plain", &folder, provider.address()).start().await.unwrap();
    let ask = async |app: &Application, name: &str| {
        let name = name.to_owned();
        let greeter = app.client::<GreeterServiceClient>();
        greeter.hello(HelloRequest { name }).await
    };
    let error = ask(&plain, "Ada").await.unwrap_err();
    assert_eq!(
        (error.code(), error.reason()),
        (Code::InvalidArgument, Reason::Handler)
    );
    let visitor = alone("visitor", &folder, provider.address());
    let visitor = visitor.client_interceptor(ShortNames).start().await.unwrap();
    assert!(
        ask(&visitor, "Ada")
            .await
            .unwrap()
            .get_ref()
            .text
            .contains("north")
    );
    let error = ask(&visitor, &"A".repeat(200)).await.unwrap_err();
    assert_eq!(
        (error.code(), error.reason()),
        (Code::InvalidArgument, Reason::Intercepted)
    );
}

fn signed(application: &str, key: &SigningKey) -> String {
    let claims = Claims {
        application: application.to_owned(),
        namespace: "snippets".to_owned(),
        not_before: 0,
        expires: unix_seconds() + 600,
        audience: Vec::new(),
    };
    claims.sign(key).unwrap()
}

#[tokio::test]
async fn applications_prove_who_they_are_by_the_files_that_settings_name() {
    let folder = TempDir::new("tokens");
    let [first, second] = [1, 2].map(|seed| SigningKey::from_random(&[seed; 32]));
    let (keys, token) = (folder.join("trusted.pem"), folder.join("visitor.token"));
    fs::write(&keys, first.public_pem().unwrap()).unwrap();
    let settings = |trusted_keys: Option<&Path>, token_file: Option<&Path>| Settings {
        registry: Some("rsf://127.0.0.1:1".to_owned()),
        namespace: Some("snippets".to_owned()),
        state: Some(folder.join("state")),
        static_instances: Some(folder.join("list.json")),
        trusted_keys: trusted_keys.map(Path::to_owned),
        token_file: token_file.map(Path::to_owned),
        drain_ms: Some(1000),
        ..Settings::default()
    };
    fs::write(folder.join("list.json"), "{}").unwrap();
    let knowing = GreeterServiceServer::new(Knowing);
    let provider = Application::builder("greeter")
        .settings(settings(Some(&keys), None))
        .service(knowing);
    let provider = provider.start().await.unwrap();
    let list = format!(r#"{{"greeting.v1.GreeterService": ["{}"]}}"#, provider.address());
    fs::write(folder.join("list.json"), list).unwrap();

    // Mistakes that every provider would refuse stop the start.
    fs::write(&token, signed("other", &first)).unwrap();
    fs::write(folder.join("bad.pem"), "no key").unwrap();
    let wrong = settings(Some(&folder.join("bad.pem")), Some(&token));
    let wrong = Application::builder("visitor").settings(wrong).start().await;
    let problem = wrong.err().unwrap().to_string();
    assert!(
        problem.contains("application `other`'s") && problem.contains("no key"),
        "{problem}"
    );

    fs::write(&token, signed("visitor", &first)).unwrap();
    let visitor = Application::builder("visitor").settings(settings(None, Some(&token)));
    let visitor = visitor.start().await.unwrap();
    let greeter: GreeterServiceClient = visitor.client();
    let ask = async || {
        let name = "Ada".to_owned();
        greeter
            .hello(HelloRequest { name })
            .await
            .err()
            .map(|error| error.reason())
    };
    assert_eq!(ask().await, None);

    // The provider trusts another key, then the application has a token by that one; both processes go on.
    fs::write(&keys, second.public_pem().unwrap()).unwrap();
    until(async || ask().await == Some(Reason::Unauthenticated)).await;
    fs::write(&token, signed("visitor", &second)).unwrap();
    until(async || ask().await.is_none()).await;
    fs::write(&token, "rubbish").unwrap();
    fs::write(&keys, "rubbish").unwrap();
    fs::remove_file(&token).unwrap();
    assert_eq!(ask().await, None, "what was good stays");
}

async fn until(condition: impl AsyncFn() -> bool) {
    let looking = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), looking)
        .await
        .unwrap();
}

#[test]
fn an_application_lives_and_ends_without_a_runtime_around_it() {
    let folder = TempDir::new("blocking");
    let knowing = GreeterServiceServer::new(Knowing);
    let provider = alone("greeter", &folder, "127.0.0.1:1").service(knowing);
    let provider = provider.start_blocking().unwrap();
    let visitor = alone("visitor", &folder, provider.address())
        .start_blocking()
        .unwrap();
    let greeter: GreeterServiceClient = visitor.client();
    let name = "Ada".to_owned();
    greeter.hello(HelloRequest { name: name.clone() }).wait().unwrap();
    greeter
        .hello(HelloRequest { name: name.clone() })
        .one_way()
        .wait()
        .unwrap();
    provider.shutdown_blocking();
    let error = greeter.hello(HelloRequest { name }).wait().unwrap_err();
    assert_eq!(error.reason(), Reason::Connect, "{error}");
    visitor.shutdown_blocking();
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
