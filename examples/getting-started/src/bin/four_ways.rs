//! One call in four ways, from a program without a runtime of its own.

use std::error::Error;
use std::sync::mpsc;

use getting_started::{GreeterServiceClient, HelloRequest};
use rsf::Application;

fn main() -> Result<(), Box<dyn Error>> {
    let app = Application::builder("visitor").start_blocking()?;
    let greeter: GreeterServiceClient = app.client();
    let request = |name: &str| HelloRequest {
        name: name.to_owned(),
    };

    // Synchronous: blocks this thread.
    let reply = greeter.hello(request("one")).wait()?;
    println!("{}", reply.get_ref().text);

    // Future: sent now, read later.
    let started = greeter.hello(request("two")).start();
    println!("{}", started.wait()?.get_ref().text);

    // Callback: runs on one of RSF's callback threads.
    let (told, hear) = mpsc::channel();
    greeter.hello(request("three")).on_complete(move |result| {
        let text = result.map(|reply| reply.into_inner().text);
        told.send(text).ok();
    });
    println!("{}", hear.recv()??);

    // Asynchronous: inside any runtime; here RSF's own.
    let runtime = app.runtime().handle().clone();
    runtime.block_on(async {
        let reply = greeter.hello(request("four")).await?;
        println!("{}", reply.get_ref().text);
        app.shutdown().await;
        Ok(())
    })
}
