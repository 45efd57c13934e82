//! Asks the greeter for a greeting four times a second, until Ctrl-C.

use std::error::Error;
use std::time::Duration;

use getting_started::{GreeterServiceClient, HelloRequest};
use rsf::Application;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let app = Application::connect("visitor").await?;
    let greeter: GreeterServiceClient = app.client();
    loop {
        let name = "Ada".to_owned();
        match greeter.hello(HelloRequest { name }).await {
            Ok(reply) => println!("{}", reply.get_ref().text),
            Err(error) => println!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}
