//! Who is who: the network namespaces that the hooks know, and what they know
//! about each. The maps are the truth, and outlive the daemon; what is kept
//! here beside them is what was read from them or written to them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use mtls_common::addr::Ip;
use mtls_common::maps::{AddressKey, KINDS, Netns, NetworkKey, PortKey, capacity, name};

use super::error::{KernelError, While};
use super::networks::{Networks, table};
use super::programs;
use super::sys::Map;
use super::{Enrolment, FoundAt, OpenPorts, Slots, Standing};

#[derive(Debug)]
pub(super) struct Workloads {
    netns: Map<u64, Netns>,
    addresses: Map<AddressKey, u32>,
    ports: Map<PortKey, u32>,
    networks: Networks,
    known: HashMap<u64, Known>,
}

#[derive(Clone, Debug)]
struct Known {
    netns: Netns,
    addresses: BTreeSet<IpAddr>,
    /// With the direction.
    ports: BTreeSet<(u16, u16)>,
}

impl Workloads {
    /// Reads what an earlier daemon wrote; removes what belongs to nobody.
    pub(super) fn adopt(maps: &Path) -> Result<Self, KernelError> {
        let trie = programs::map(maps, name::NETWORKS)?;
        let mut this = Self {
            netns: programs::map(maps, name::NETNS)?,
            addresses: programs::map(maps, name::ADDRESSES)?,
            ports: programs::map(maps, name::PORTS)?,
            networks: Networks::adopt(trie).of_map(name::NETWORKS, "read")?,
            known: HashMap::new(),
        };
        this.read_known().of_map(name::NETNS, "read")?;
        this.read_addresses().of_map(name::ADDRESSES, "read")?;
        this.read_ports().of_map(name::PORTS, "read")?;
        for cookie in this.networks.cookies() {
            if cookie != NetworkKey::NODE && !this.known.contains_key(&cookie) {
                this.set_networks(cookie, &[], &[])?;
            }
        }
        Ok(this)
    }

    fn read_known(&mut self) -> io::Result<()> {
        for cookie in self.netns.keys()? {
            if let Some(netns) = self.netns.get(&cookie)? {
                let known = Known {
                    netns,
                    addresses: BTreeSet::new(),
                    ports: BTreeSet::new(),
                };
                self.known.insert(cookie, known);
            }
        }
        Ok(())
    }

    fn read_addresses(&mut self) -> io::Result<()> {
        for key in self.addresses.keys()? {
            match self.known.get_mut(&key.cookie) {
                Some(known) => drop(known.addresses.insert(key.ip.into())),
                None => drop(self.addresses.remove(&key)?),
            }
        }
        Ok(())
    }

    fn read_ports(&mut self) -> io::Result<()> {
        for key in self.ports.keys()? {
            match self.known.get_mut(&key.cookie) {
                Some(known) => drop(known.ports.insert((key.port, key.direction))),
                None => drop(self.ports.remove(&key)?),
            }
        }
        Ok(())
    }

    pub(super) fn standings(&self) -> Vec<(u64, Standing)> {
        let standings = self.known.iter().map(|(&cookie, known)| {
            let standing = match known.netns.standing {
                Netns::ENROLLED => Standing::Enrolled(FoundAt(known.netns.found_at)),
                _ => Standing::NotEnrolled,
            };
            (cookie, standing)
        });
        standings.collect()
    }

    pub(super) fn is_enrolled(&self, cookie: u64) -> bool {
        self.known
            .get(&cookie)
            .is_some_and(|known| known.netns.standing == Netns::ENROLLED)
    }

    /// Of one that is not enrolled: all.
    pub(super) fn open_ports(&self, cookie: u64) -> OpenPorts {
        match self.known.get(&cookie) {
            Some(known) => OpenPorts::new(known.netns, &known.ports),
            None => OpenPorts::new(Netns::OTHERS, &BTreeSet::new()),
        }
    }

    pub(super) fn is_left_alone(&self, cookie: u64) -> bool {
        self.known
            .get(&cookie)
            .is_some_and(|known| known.netns.standing == Netns::NOT_ENROLLED)
    }

    /// What the hooks are to know about a workload, with the places that it
    /// has, or else the first that are free.
    pub(super) fn plan(&self, enrolment: &Enrolment<'_>) -> Result<Netns, KernelError> {
        let spread = enrolment.spread;
        if !(1..=64).contains(&spread) {
            return Err(KernelError::Spread { asked: spread });
        }
        let kept = self
            .known
            .get(&enrolment.cookie)
            .map(|known| known.netns)
            .filter(|netns| netns.standing == Netns::ENROLLED && netns.spread == spread);
        let slot_base = match kept {
            Some(netns) => netns.slot_base,
            None => self.free_slots(KINDS * spread)?,
        };
        let flag = |set: bool, bit| if set { bit } else { 0 };
        let first = |v4: bool| {
            enrolment
                .addresses
                .iter()
                .find(|ip| ip.is_ipv4() == v4)
                .map(|&ip| Ip::from(ip))
        };
        Ok(Netns {
            found_at: enrolment.found_at.0,
            standing: Netns::ENROLLED,
            slot_base,
            spread,
            flags: flag(!enrolment.excluded.is_empty(), Netns::HAS_NETWORKS)
                | flag(
                    !enrolment.excluded_outbound_ports.is_empty(),
                    Netns::HAS_PORTS_OUT,
                )
                | flag(
                    !enrolment.excluded_inbound_ports.is_empty(),
                    Netns::HAS_PORTS_IN,
                )
                | flag(enrolment.truthful, Netns::TRUTHFUL)
                | flag(enrolment.permissive, Netns::PERMISSIVE)
                | flag(
                    !enrolment.strict_ports.is_empty() || !enrolment.permissive_ports.is_empty(),
                    Netns::HAS_PORT_MODES,
                ),
            primary_v4: first(true).unwrap_or(Ip::UNSPECIFIED_V4),
            primary_v6: first(false).unwrap_or(Ip::UNSPECIFIED_V6),
        })
    }

    fn free_slots(&self, wanted: u32) -> Result<u32, KernelError> {
        let taken: BTreeMap<u32, u32> = self
            .known
            .values()
            .filter(|known| known.netns.standing == Netns::ENROLLED)
            .map(|known| (known.netns.slot_base, KINDS * known.netns.spread))
            .collect();
        let mut free = 0;
        for (base, length) in taken {
            if base.saturating_sub(free) >= wanted {
                break;
            }
            free = free.max(base + length);
        }
        if free as usize + wanted as usize > capacity::LISTENERS {
            return Err(KernelError::NoSlots {
                capacity: capacity::LISTENERS,
            });
        }
        Ok(free)
    }

    /// Writes what is new about a workload, before the hooks are told of it.
    pub(super) fn prepare(&mut self, enrolment: &Enrolment<'_>) -> Result<(), KernelError> {
        let cookie = enrolment.cookie;
        for &ip in &enrolment.addresses {
            self.addresses
                .put(&address_key(cookie, ip), &1)
                .of_map(name::ADDRESSES, "written")?;
        }
        for (port, direction) in ports_of(enrolment) {
            self.ports
                .put(&PortKey::new(cookie, port, direction), &1)
                .of_map(name::PORTS, "written")?;
        }
        // Also takes away what is excluded no more, which only captures more.
        self.set_networks(cookie, &[], &enrolment.excluded)
    }

    /// Tells the hooks of a workload, then removes what was true of it before.
    pub(super) fn commit(
        &mut self,
        enrolment: &Enrolment<'_>,
        netns: Netns,
    ) -> Result<Slots, KernelError> {
        let cookie = enrolment.cookie;
        self.netns
            .put(&cookie, &netns)
            .of_map(name::NETNS, "written")?;
        let known = Known {
            netns,
            addresses: enrolment.addresses.iter().copied().collect(),
            ports: ports_of(enrolment).collect(),
        };
        if let Some(before) = self.known.insert(cookie, known.clone()) {
            self.drop_addresses(cookie, before.addresses.difference(&known.addresses))?;
            self.drop_ports(cookie, before.ports.difference(&known.ports))?;
        }
        Ok(Slots {
            cookie,
            base: netns.slot_base,
            spread: netns.spread,
        })
    }

    /// Known, and left alone.
    pub(super) fn set_not_enrolled(&mut self, cookie: u64) -> Result<(), KernelError> {
        self.netns
            .put(&cookie, &Netns::OTHERS)
            .of_map(name::NETNS, "written")?;
        let nobody = Known {
            netns: Netns::OTHERS,
            addresses: BTreeSet::new(),
            ports: BTreeSet::new(),
        };
        match self.known.insert(cookie, nobody) {
            Some(before) => self.drop_details(cookie, &before),
            None => Ok(()),
        }
    }

    /// Forgets a network namespace: it is unknown from here on.
    pub(super) fn forget(&mut self, cookie: u64) -> Result<(), KernelError> {
        self.netns.remove(&cookie).of_map(name::NETNS, "written")?;
        match self.known.remove(&cookie) {
            Some(before) => self.drop_details(cookie, &before),
            None => self.set_networks(cookie, &[], &[]),
        }
    }

    fn drop_details(&mut self, cookie: u64, known: &Known) -> Result<(), KernelError> {
        self.drop_addresses(cookie, known.addresses.iter())?;
        self.drop_ports(cookie, known.ports.iter())?;
        self.set_networks(cookie, &[], &[])
    }

    fn drop_addresses<'a>(
        &self,
        cookie: u64,
        addresses: impl Iterator<Item = &'a IpAddr>,
    ) -> Result<(), KernelError> {
        for &ip in addresses {
            self.addresses
                .remove(&address_key(cookie, ip))
                .of_map(name::ADDRESSES, "written")?;
        }
        Ok(())
    }

    fn drop_ports<'a>(
        &self,
        cookie: u64,
        ports: impl Iterator<Item = &'a (u16, u16)>,
    ) -> Result<(), KernelError> {
        for &(port, direction) in ports {
            self.ports
                .remove(&PortKey::new(cookie, port, direction))
                .of_map(name::PORTS, "written")?;
        }
        Ok(())
    }

    /// The networks of the mesh that the hooks know of the node.
    pub(super) fn mesh(&self) -> Vec<IpNet> {
        self.networks.mesh(NetworkKey::NODE)
    }

    /// Of the node (cookie 0) or of a workload.
    pub(super) fn set_networks(
        &mut self,
        cookie: u64,
        mesh: &[IpNet],
        excluded: &[IpNet],
    ) -> Result<(), KernelError> {
        self.networks
            .set(cookie, table(mesh, excluded))
            .of_map(name::NETWORKS, "written")
    }

    /// Entries of the maps that this keeps.
    pub(super) fn usage(&self) -> [(&'static str, usize, usize); 4] {
        let sum = |of: fn(&Known) -> usize| self.known.values().map(of).sum();
        [
            (name::NETNS, self.known.len(), capacity::NETNS),
            (
                name::ADDRESSES,
                sum(|known| known.addresses.len()),
                capacity::ADDRESSES,
            ),
            (name::PORTS, sum(|known| known.ports.len()), capacity::PORTS),
            (name::NETWORKS, self.networks.entries(), capacity::NETWORKS),
        ]
    }
}

fn address_key(cookie: u64, ip: IpAddr) -> AddressKey {
    AddressKey {
        cookie,
        ip: ip.into(),
    }
}

fn ports_of(enrolment: &Enrolment<'_>) -> impl Iterator<Item = (u16, u16)> {
    let out = enrolment.excluded_outbound_ports.iter();
    let inbound = enrolment.excluded_inbound_ports.iter();
    let probed = enrolment.probe_ports.iter();
    let strict = enrolment.strict_ports.iter();
    let permissive = enrolment.permissive_ports.iter();
    out.map(|&port| (port, PortKey::OUT))
        .chain(inbound.map(|&port| (port, PortKey::IN)))
        .chain(probed.map(|&port| (port, PortKey::PROBED)))
        .chain(strict.map(|&port| (port, PortKey::STRICT)))
        .chain(permissive.map(|&port| (port, PortKey::PERMISSIVE)))
}
