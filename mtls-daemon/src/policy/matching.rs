//! Whether one rule matches one connection, and if not, what does not agree.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::{Holds, Operation, Pattern, Rule, RuleSource};
use crate::spiffe::SpiffeId;

use super::rules::Connection;

/// The key of a rule that a connection does not agree with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mismatch(pub(super) &'static str);

/// One of `from`, one of `to` and all of `when` must match. What the first of several does
/// not agree with says most: they are tried in the order of the file.
pub(super) fn rule(rule: &Rule, connection: &Connection<'_>) -> Result<(), Mismatch> {
    one_of(&rule.from, |one| source(one, connection))?;
    one_of(&rule.to, |one| operation(one, connection))?;
    for condition in &rule.when {
        let holds = match &condition.holds {
            Holds::From(one) => source(one, connection).is_ok(),
            Holds::To(one) => operation(one, connection).is_ok(),
            Holds::At(wanted, excluded) => {
                let address = connection.destination;
                (wanted.is_empty() || is_in(wanted, address)) && !is_in(excluded, address)
            }
            Holds::Never => false,
        };
        agree(condition.key, holds)?;
    }
    Ok(())
}

/// An empty list is any.
fn one_of<T>(list: &[T], matches: impl Fn(&T) -> Result<(), Mismatch>) -> Result<(), Mismatch> {
    let mut first = Ok(());
    for one in list {
        match matches(one) {
            Ok(()) => return Ok(()),
            Err(mismatch) => first = first.and(Err(mismatch)),
        }
    }
    first
}

fn source(source: &RuleSource, connection: &Connection<'_>) -> Result<(), Mismatch> {
    let RuleSource {
        principals,
        not_principals,
        namespaces,
        not_namespaces,
        ip_blocks,
        not_ip_blocks,
        remote_ip_blocks,
        not_remote_ip_blocks,
    } = source;
    let id = connection.principal.map(SpiffeId::principal);
    let within = connection.principal.and_then(SpiffeId::namespace);
    texts("principals", principals, id)?;
    no_texts("not_principals", not_principals, id)?;
    texts("namespaces", namespaces, within)?;
    no_texts("not_namespaces", not_namespaces, within)?;
    let (source, remote) = (connection.source, connection.remote);
    blocks("ip_blocks", ip_blocks, source)?;
    no_blocks("not_ip_blocks", not_ip_blocks, source)?;
    blocks("remote_ip_blocks", remote_ip_blocks, remote)?;
    no_blocks("not_remote_ip_blocks", not_remote_ip_blocks, remote)
}

fn operation(operation: &Operation, connection: &Connection<'_>) -> Result<(), Mismatch> {
    let Operation { ports, not_ports } = operation;
    agree(
        "ports",
        ports.is_empty() || ports.contains(&connection.port),
    )?;
    agree("not_ports", !not_ports.contains(&connection.port))
}

/// Whoever has proved nothing matches no positive list.
fn texts(key: &'static str, wanted: &[Pattern], text: Option<&str>) -> Result<(), Mismatch> {
    let matches = |text| wanted.iter().any(|pattern| pattern.matches(text));
    agree(key, wanted.is_empty() || text.is_some_and(matches))
}

fn no_texts(key: &'static str, excluded: &[Pattern], text: Option<&str>) -> Result<(), Mismatch> {
    let matches = |text| excluded.iter().any(|pattern| pattern.matches(text));
    agree(key, !text.is_some_and(matches))
}

fn blocks(key: &'static str, wanted: &[IpNet], address: IpAddr) -> Result<(), Mismatch> {
    agree(key, wanted.is_empty() || is_in(wanted, address))
}

fn no_blocks(key: &'static str, excluded: &[IpNet], address: IpAddr) -> Result<(), Mismatch> {
    agree(key, !is_in(excluded, address))
}

/// An IPv4 address in IPv6's clothes is the IPv4 address.
fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

fn agree(key: &'static str, agrees: bool) -> Result<(), Mismatch> {
    match agrees {
        true => Ok(()),
        false => Err(Mismatch(key)),
    }
}
