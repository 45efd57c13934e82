//! One instance of the greeter; `RSF_INSTANCE` names it.

use std::error::Error;
use std::time::Duration;

use getting_started::{GreeterService, GreeterServiceServer, HelloReply, HelloRequest};
use rsf::{Application, Request, Response, Status};

struct Greeter {
    me: String,
}

impl GreeterService for Greeter {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let name = request.into_inner().name;
        if name.is_empty() {
            return Err(Status::invalid_argument("whom shall I greet? Set `name`."));
        }
        // Work that takes a while, so that a timeout has something to cut off.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let text = format!("Hello {name}, says {}", self.me);
        Ok(Response::new(HelloReply { text }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let me = std::env::var("RSF_INSTANCE")?;
    let app = Application::builder("greeter")
        .service(GreeterServiceServer::new(Greeter { me }))
        .start()
        .await?;
    println!("{} serves on {}", app.instance(), app.address());
    Ok(app.run_until_signal().await?)
}
