//! The networks of the mesh and the excluded ones, as the hooks look them up:
//! a trie in which the longest network around an address says everything about
//! it. It changes under traffic, one entry at a time.

use std::collections::{HashMap, HashSet};
use std::io;

use aya::maps::lpm_trie::Key;
use ipnet::IpNet;
use mtls_common::maps::{EXCLUDED, MESH, NetworkKey};

use super::sys::Map;

/// Networks and their bits, of the node (cookie 0) or of one workload.
pub(super) type Table = HashMap<IpNet, u32>;

#[derive(Debug)]
pub(super) struct Networks {
    trie: Map<Key<NetworkKey>, u32>,
    tables: HashMap<u64, Table>,
}

impl Networks {
    /// With what is in the map already.
    pub(super) fn adopt(trie: Map<Key<NetworkKey>, u32>) -> io::Result<Self> {
        let mut tables: HashMap<u64, Table> = HashMap::new();
        for key in trie.keys()? {
            let data = key.data();
            let cookie = u64::from(data.cookie[0]) | u64::from(data.cookie[1]) << 32;
            match (network_of(key.prefix_len(), data), trie.get(&key)?) {
                (Some(network), Some(bits)) => {
                    tables.entry(cookie).or_default().insert(network, bits);
                }
                // Not one of ours: it would never be found again.
                _ => drop(trie.remove(&key)?),
            }
        }
        Ok(Self { trie, tables })
    }

    /// Replaces a table. At every moment an address that has a bit before and
    /// after has it, too; see `steps`.
    pub(super) fn set(&mut self, cookie: u64, new: Table) -> io::Result<()> {
        let old = self.tables.entry(cookie).or_default();
        for step in steps(old, &new) {
            match step {
                Step::Put(network, bits) => {
                    self.trie.put(&key_of(cookie, network), &bits)?;
                    old.insert(network, bits);
                }
                Step::Remove(network) => {
                    self.trie.remove(&key_of(cookie, network))?;
                    old.remove(&network);
                }
            }
        }
        if new.is_empty() {
            self.tables.remove(&cookie);
        }
        Ok(())
    }

    /// The networks of the mesh in a table.
    pub(super) fn mesh(&self, cookie: u64) -> Vec<IpNet> {
        let table = self.tables.get(&cookie).into_iter().flatten();
        table
            .filter(|(_, bits)| **bits & MESH != 0)
            .map(|(network, _)| *network)
            .collect()
    }

    pub(super) fn cookies(&self) -> Vec<u64> {
        self.tables.keys().copied().collect()
    }

    pub(super) fn entries(&self) -> usize {
        self.tables.values().map(HashMap::len).sum()
    }
}

/// A table in which each network carries the bits of all networks around it,
/// so that the longest one speaks for all, and to be excluded wins.
pub(super) fn table(mesh: &[IpNet], excluded: &[IpNet]) -> Table {
    let mesh: HashSet<_> = mesh.iter().map(IpNet::trunc).collect();
    let excluded: HashSet<_> = excluded.iter().map(IpNet::trunc).collect();
    let bits = |network: IpNet| {
        let mut bits = 0;
        let mut around = Some(network);
        while let Some(network) = around {
            bits |= if mesh.contains(&network) { MESH } else { 0 };
            bits |= if excluded.contains(&network) {
                EXCLUDED
            } else {
                0
            };
            around = network.supernet();
        }
        bits
    };
    mesh.union(&excluded)
        .map(|&network| (network, bits(network)))
        .collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Put(IpNet, u32),
    Remove(IpNet),
}

/// How to get from one table to another under traffic. What is new goes in
/// from the longest network to the shortest, so that no shorter one speaks for
/// an address whose own network is still to come; then what is old goes from
/// the shortest to the longest, so that none speaks for an address whose own
/// network is gone already.
fn steps(old: &Table, new: &Table) -> Vec<Step> {
    let mut puts: Vec<_> = new
        .iter()
        .filter(|(network, bits)| old.get(*network) != Some(bits))
        .map(|(&network, &bits)| Step::Put(network, bits))
        .collect();
    let mut removals: Vec<_> = old
        .keys()
        .filter(|network| !new.contains_key(*network))
        .map(|&network| Step::Remove(network))
        .collect();
    puts.sort_by_key(|step| std::cmp::Reverse(step.prefix_len()));
    removals.sort_by_key(Step::prefix_len);
    puts.append(&mut removals);
    puts
}

impl Step {
    fn prefix_len(&self) -> u8 {
        match self {
            Self::Put(network, _) | Self::Remove(network) => network.prefix_len(),
        }
    }
}

fn key_of(cookie: u64, network: IpNet) -> Key<NetworkKey> {
    let free = match network {
        IpNet::V4(_) => 32 - u32::from(network.prefix_len()),
        IpNet::V6(_) => 128 - u32::from(network.prefix_len()),
    };
    let data = NetworkKey::new(cookie, network.network().into());
    Key::new(NetworkKey::BITS - free, data)
}

fn network_of(prefix_len: u32, data: NetworkKey) -> Option<IpNet> {
    let free = NetworkKey::BITS.checked_sub(prefix_len)?;
    let ip = data.ip.into();
    let width = match ip {
        std::net::IpAddr::V4(_) => 32,
        std::net::IpAddr::V6(_) => 128_u32,
    };
    IpNet::new(ip, u8::try_from(width.checked_sub(free)?).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    fn look_up(table: &Table, ip: IpAddr) -> u32 {
        table
            .iter()
            .filter(|(network, _)| network.contains(&ip))
            .max_by_key(|(network, _)| network.prefix_len())
            .map_or(0, |(_, &bits)| bits)
    }

    #[test]
    fn excluded_wins_whatever_is_longer() {
        let table = table(
            &nets(&["10.0.0.0/8", "10.9.1.7/32"]),
            &nets(&["10.9.0.0/16"]),
        );
        let bits = |ip: &str| look_up(&table, ip.parse().unwrap());
        assert_eq!(bits("10.1.2.3"), MESH);
        assert_eq!(bits("10.9.2.3") & EXCLUDED, EXCLUDED);
        assert_eq!(bits("10.9.1.7") & EXCLUDED, EXCLUDED);
        assert_eq!(bits("11.0.0.1"), 0);
    }

    #[test]
    fn keys_come_back_as_their_networks() {
        for network in nets(&[
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.1.2.3/32",
            "::/0",
            "fd00::/8",
            "fd77::1/128",
        ]) {
            let key = key_of(7, network);
            assert_eq!(network_of(key.prefix_len(), key.data()), Some(network));
        }
    }

    /// Networks of a few addresses, so that they nest and collide.
    fn small_nets() -> impl Strategy<Value = Vec<IpNet>> {
        proptest::collection::vec((0..16_u32, 28..=32_u8), 0..6).prop_map(|list| {
            list.into_iter()
                .map(|(ip, length)| IpNet::new(address(ip), length).unwrap().trunc())
                .collect()
        })
    }

    fn address(low: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | low))
    }

    proptest! {
        #[test]
        fn the_longest_network_speaks_for_all(mesh in small_nets(), excluded in small_nets()) {
            let table = table(&mesh, &excluded);
            for ip in (0..16).map(address) {
                let within = |list: &[IpNet]| list.iter().any(|net| net.contains(&ip));
                let bits = look_up(&table, ip);
                prop_assert_eq!(bits & MESH != 0, within(&mesh));
                prop_assert_eq!(bits & EXCLUDED != 0, within(&excluded));
            }
        }

        #[test]
        fn a_change_has_no_moment_without(
            old in (small_nets(), small_nets()),
            new in (small_nets(), small_nets()),
        ) {
            let (old, new) = (table(&old.0, &old.1), table(&new.0, &new.1));
            let mut now = old.clone();
            for step in steps(&old, &new) {
                match step {
                    Step::Put(network, bits) => drop(now.insert(network, bits)),
                    Step::Remove(network) => drop(now.remove(&network)),
                }
                for ip in (0..16).map(address) {
                    let always = look_up(&old, ip) & look_up(&new, ip);
                    let ever = look_up(&old, ip) | look_up(&new, ip);
                    let bits = look_up(&now, ip);
                    prop_assert_eq!(bits & always, always, "{} lost a bit", ip);
                    prop_assert_eq!(bits & !ever, 0, "{} got a bit that it never has", ip);
                }
            }
            prop_assert_eq!(now, new);
        }
    }
}
