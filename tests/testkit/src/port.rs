//! Ports that stay free until the test's own server listens on them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use tokio::net::TcpSocket;

/// The sockets that keep this process's ports; the kernel closes them when it ends.
static KEPT: Mutex<Vec<TcpSocket>> = Mutex::new(Vec::new());

/// A port of 127.0.0.1 that nobody else gets until this process ends.
///
/// A socket that is bound to it and never listens keeps it: the kernel gives such a port to no outgoing connection and to
/// nobody who asks for any free port, in this process or another, also while the server behind it is down between a kill
/// and a restart. A server that names the port can listen there, as it says `SO_REUSEADDR` like the socket here (the
/// standard library, Redis, ZooKeeper, Node and PHP do). Until it listens, connections are refused.
///
/// # Panics
/// When no port is free.
pub fn free_port() -> u16 {
    match keep_one() {
        Ok((port, socket)) => {
            KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
            port
        }
        Err(error) => panic!("no free port on 127.0.0.1: {error}"),
    }
}

fn keep_one() -> std::io::Result<(u16, TcpSocket)> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    Ok((socket.local_addr()?.port(), socket))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn ports_are_distinct_and_can_be_listened_on_again_and_again() {
        let ports: HashSet<u16> = (0..50).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 50);
        for port in ports {
            for _ in 0..2 {
                let server = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
                let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
                // The server closes first: its side of the connection lingers on the port.
                drop(server.accept().unwrap());
                drop((client, server));
            }
        }
    }

    #[test]
    fn nobody_answers_on_a_port_before_its_server() {
        let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, free_port())).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_port_is_given_to_nobody_who_asks_for_any() {
        let kept: HashSet<u16> = (0..300).map(|_| free_port()).collect();
        let others: Vec<_> = (0..300)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
            .collect();
        for other in &others {
            let port = other.local_addr().unwrap().port();
            assert!(!kept.contains(&port), "port {port} was given out twice");
        }
        let server = &others[0];
        for _ in 0..300 {
            let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
            let port = client.local_addr().unwrap().port();
            assert!(!kept.contains(&port), "an outgoing connection got port {port}");
            drop(server.accept().unwrap());
        }
    }
}
