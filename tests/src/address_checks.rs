//! The kernel's checks of IPv4 addresses. CNI plugins and load balancers switch
//! them off on their nodes, and some pods inherit that: an attack that forges
//! addresses is told both ways.

use std::fs;

use crate::error::{Doing, Result};
use crate::netns::Netns;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressChecks {
    On,
    Off,
}

impl AddressChecks {
    pub const BOTH: [Self; 2] = [Self::On, Self::Off];

    /// In these namespaces, at all the interfaces that they have or will have.
    pub fn set<'a>(self, namespaces: impl IntoIterator<Item = &'a Netns>) -> Result {
        let (route_localnet, rp_filter, accept_local) = match self {
            Self::On => ("0", "1", "0"),
            Self::Off => ("1", "0", "1"),
        };
        for netns in namespaces {
            for interface in interfaces(netns)? {
                for (key, value) in [
                    ("route_localnet", route_localnet),
                    ("rp_filter", rp_filter),
                    ("accept_local", accept_local),
                ] {
                    netns.sysctl(&format!("net/ipv4/conf/{interface}/{key}"), value)?;
                }
            }
        }
        Ok(())
    }
}

/// `all` and `default` among them.
fn interfaces(netns: &Netns) -> Result<Vec<String>> {
    let folder = "/proc/sys/net/ipv4/conf";
    let names = netns.run(|| {
        fs::read_dir(folder)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<_>>()
    })?;
    names.doing(|| format!("listing {folder}"))
}
