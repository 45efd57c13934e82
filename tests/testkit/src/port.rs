//! Ports that stay free: reserved across processes, and outside the range of outgoing connections.

use std::fs::{self, File, TryLockError};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The lock files of the ports that this process reserved; the kernel unlocks them when it ends.
static RESERVED: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Reserves a port of 127.0.0.1, free for TCP and UDP, until this process ends.
///
/// The port lies outside the kernel's range for outgoing connections, so that none of these can sit on it while the
/// server behind it is down between a kill and a restart. A locked file in the system's folder for temporary files keeps
/// tests in other processes off it.
///
/// # Panics
/// When no port is free, or the folder for the lock files cannot be written.
pub fn free_port() -> u16 {
    let folder = lock_folder();
    if let Err(error) = fs::create_dir_all(&folder) {
        panic!(
            "cannot create {} for port reservations: {error}",
            folder.display()
        );
    }
    let range = range_beside(outgoing_range());
    let count = range.end - range.start;
    let first = fastrand::u16(0..count);
    for step in 0..count {
        let port = range.start + (first + step) % count;
        if let Some(lock) = reserve(&folder, port) {
            RESERVED.lock().unwrap_or_else(PoisonError::into_inner).push(lock);
            return port;
        }
    }
    panic!(
        "no free port between {} and {} on 127.0.0.1",
        range.start, range.end
    );
}

/// Locks the port's file, then checks that nobody outside this scheme listens there.
fn reserve(folder: &Path, port: u16) -> Option<File> {
    let path = folder.join(port.to_string());
    let file = match File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
    {
        Ok(file) => file,
        Err(error) => panic!("cannot open {} to reserve a port: {error}", path.display()),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return None,
        Err(TryLockError::Error(error)) => panic!("cannot lock {}: {error}", path.display()),
    }
    // The standard library listens with SO_REUSEADDR: connections that linger in TIME_WAIT do not count as taken.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    free.then_some(file)
}

/// One folder a user: a file that another user created could not be opened.
fn lock_folder() -> PathBuf {
    std::env::temp_dir().join(format!("rsf-test-ports-{}", rustix::process::getuid().as_raw()))
}

/// The kernel's range for outgoing connections and `bind` to port 0; Linux' default where it cannot be read.
fn outgoing_range() -> (u16, u16) {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = text.split_whitespace().filter_map(|word| word.parse().ok());
    (bounds.next().unwrap_or(32768), bounds.next().unwrap_or(60999))
}

/// At least a thousand ports that are not among the `outgoing` ones: below them, or above, or (a machine that uses
/// all ports for outgoing connections leaves no choice) among them.
fn range_beside((low, high): (u16, u16)) -> Range<u16> {
    if low >= 21_000 {
        20_000..low
    } else if high <= 64_000 {
        high + 1..65_500
    } else {
        20_000..65_500
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ports_are_distinct_and_can_be_listened_on() {
        let ports: HashSet<u16> = (0..50).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 50);
        for port in ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
    }

    #[test]
    fn a_reserved_port_is_refused_to_others() {
        let port = free_port();
        assert!(
            reserve(&lock_folder(), port).is_none(),
            "port {port} was given out twice"
        );
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(reserve(folder.path(), listener.local_addr().unwrap().port()).is_none());
    }

    #[test]
    fn the_range_avoids_outgoing_connections_where_it_can() {
        assert_eq!(range_beside((32_768, 60_999)), 20_000..32_768);
        assert_eq!(range_beside((10_000, 60_999)), 61_000..65_500);
        assert_eq!(range_beside((1_024, 65_535)), 20_000..65_500);
    }
}
