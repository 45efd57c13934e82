//! The echo server and its client. The server runs each request in a task, as tarpc's examples do. Deadline and trace travel in
//! tarpc's own context; the request id, which it has not, in the message.

use std::time::Duration;

use futures_util::StreamExt as _;
use tarpc::context;
use tarpc::server::{BaseChannel, Channel as _, Config};
use tarpc::tokio_serde::formats::Bincode;
use tokio::net::TcpListener;

use crate::load::{Caller, Measured, run};
use crate::plan::{Amount, Cell};
use crate::{Error, Result};

/// A payload, and what differs from call to call.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Message {
    request_id: u64,
    #[serde(with = "serde_bytes")]
    payload: Vec<u8>,
}

/// Echoes.
#[tarpc::service]
pub trait Echo {
    /// Sends the message back.
    async fn echo(message: Message) -> Message;
}

#[derive(Clone)]
struct Handlers;

impl Echo for Handlers {
    async fn echo(self, _: context::Context, message: Message) -> Message {
        message
    }
}

/// Serves on all listeners, for ever.
pub(crate) async fn serve(_: Cell, listeners: Vec<TcpListener>) -> Result<()> {
    for listener in listeners {
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let framed = tarpc::tokio_util::codec::LengthDelimitedCodec::builder().new_framed(stream);
                let transport = tarpc::serde_transport::new(framed, Bincode::default());
                let config = Config {
                    pending_response_buffer: 1024,
                };
                let requests = BaseChannel::new(config, transport).execute(Handlers.serve());
                tokio::spawn(requests.for_each(|handling| async move {
                    tokio::spawn(handling);
                }));
            }
            #[allow(unreachable_code, reason = "names the error's type")]
            Ok::<(), Error>(())
        });
    }
    std::future::pending().await
}

/// Calls the server at `addresses`.
pub(crate) async fn call(cell: Cell, addresses: &[String], amount: Amount, server: u32) -> Result<Measured> {
    let transport = tarpc::serde_transport::tcp::connect(addresses[0].clone(), Bincode::default).await?;
    transport.get_ref().set_nodelay(true)?;
    let mut config = tarpc::client::Config::default();
    config.max_in_flight_requests = 4096;
    config.pending_request_buffer = 1024;
    let client = EchoClient::new(config, transport).spawn();
    let payload = (0..cell.payload).map(|place| (place * 31 % 251) as u8).collect();
    let caller = Calls {
        client,
        payload,
        next: 0,
    };
    run(caller, cell.in_flight, amount, server).await
}

#[derive(Clone)]
struct Calls {
    client: EchoClient,
    payload: Vec<u8>,
    next: u64,
}

impl Caller for Calls {
    async fn call(&mut self) -> Result<()> {
        self.next += 1;
        let mut context = context::current();
        context.deadline =
            std::time::Instant::now() + Duration::from_micros(99_999_999 - self.next % 10_000_000);
        let message = Message {
            request_id: self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            payload: self.payload.clone(),
        };
        let reply = self.client.echo(context, message).await?;
        match reply.payload.len() == self.payload.len() {
            true => Ok(()),
            false => Err(format!("the echo has {} bytes", reply.payload.len()).into()),
        }
    }
}
