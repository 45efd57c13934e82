//! Which server has an instance's lease: rendezvous hashing, so that all processes agree without speaking to each
//! other, and a server that is added or removed moves only its own share.
//!
//! The hash is a contract between versions: FNV-1a of the server's address and of the instance's id, each of 64 bits,
//! joined and finished by SplitMix64's finalizer. D. Thaler, C. Ravishankar, "Using name-based mappings to increase
//! hit rates", 1998.

/// The places in `servers`, the best for `instance` first.
pub(super) fn order<'a>(servers: impl Iterator<Item = &'a str>, instance: &str) -> Vec<usize> {
    let instance = fnv1a(instance);
    let mut scored: Vec<(u64, &str, usize)> = servers
        .enumerate()
        .map(|(at, server)| (finish(fnv1a(server) ^ instance.rotate_left(32)), server, at))
        .collect();
    // By address where two scores are the same, so that the order in which they are named never counts.
    scored.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().map(|(_, _, at)| at).collect()
}

fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn finish(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVERS: [&str; 3] = ["redis-1:6379", "redis-2:6379", "redis-3:6379"];

    fn named(servers: &[&str], instance: &str) -> Vec<String> {
        order(servers.iter().copied(), instance)
            .into_iter()
            .map(|at| servers[at].to_owned())
            .collect()
    }

    #[test]
    fn the_order_stays_what_it_is() {
        assert_eq!(fnv1a("foobar"), 0x8594_4171_f739_67e8, "FNV's own test vector");
        let expected = ["redis-1:6379", "redis-3:6379", "redis-2:6379"];
        assert_eq!(named(&SERVERS, "order/10.0.0.1:7000"), expected);
        let turned = ["redis-3:6379", "redis-2:6379", "redis-1:6379"];
        assert_eq!(
            named(&turned, "order/10.0.0.1:7000"),
            expected,
            "however they are named"
        );
    }

    #[test]
    fn servers_share_evenly_and_one_that_is_down_is_shared_too() {
        let mut homes = [0; 3];
        let mut substitutes = [0; 3];
        for n in 0..30_000 {
            let order = order(
                SERVERS.into_iter(),
                &format!("member/10.0.{}.{}:7000", n / 250, n % 250),
            );
            homes[order[0]] += 1;
            if order[0] == 0 {
                substitutes[order[1]] += 1;
            }
        }
        assert!(homes.iter().all(|n| (9_500..10_500).contains(n)), "{homes:?}");
        assert!(
            substitutes[1..].iter().all(|n| (4_600..5_400).contains(n)),
            "{substitutes:?}"
        );
    }

    #[test]
    fn a_server_more_moves_its_own_share_only() {
        let four = ["redis-1:6379", "redis-2:6379", "redis-3:6379", "redis-4:6379"];
        for n in 0..1_000 {
            let instance = format!("member/{n}");
            let mut with = named(&four, &instance);
            with.retain(|server| server != "redis-4:6379");
            assert_eq!(with, named(&SERVERS, &instance));
        }
    }
}
