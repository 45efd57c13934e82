//! What TCP alone takes: the payload goes there and back, one at a time.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use crate::load::Caller;
use crate::{Error, Result};

pub(super) async fn serve(listeners: Vec<TcpListener>) -> Result<()> {
    for listener in listeners {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                match stream.read(&mut buffer).await? {
                    0 => return Ok::<(), Error>(()),
                    bytes => stream.write_all(&buffer[..bytes]).await?,
                }
            }
        });
    }
    std::future::pending().await
}

pub(super) async fn connect(address: &str, payload: usize) -> Result<impl Caller> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(Calls {
        stream: Arc::new(Mutex::new(stream)),
        payload: super::payload(payload),
        came: vec![0; payload],
    })
}

#[derive(Clone)]
struct Calls {
    /// Nobody waits for it: one is in flight.
    stream: Arc<Mutex<TcpStream>>,
    payload: Vec<u8>,
    came: Vec<u8>,
}

impl Caller for Calls {
    async fn call(&mut self) -> Result<()> {
        let mut stream = self.stream.lock().await;
        stream.write_all(&self.payload).await?;
        stream.read_exact(&mut self.came).await?;
        super::check(&self.came, &self.payload)
    }
}
