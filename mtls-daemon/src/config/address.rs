//! Addresses and networks in the configuration.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;

use super::keys::Shape;
use super::mistakes::Complaint;
use super::value::{Value, text};

impl Value for IpAddr {
    fn read(value: &Spanned<DeValue<'_>>, _: &Shape, wrong: &mut Vec<Complaint>) -> Option<Self> {
        let text = text(value, "an address", r#""10.0.1.4""#, wrong)?;
        let Ok(address) = text.parse::<Self>() else {
            wrong.push(Complaint::new(
                value.span(),
                format!("{text:?} is no IP address"),
                r#"write an address without port or prefix length, such as "10.0.1.4" or "fd00::4""#,
            ));
            return None;
        };
        if address.to_canonical() != address {
            wrong.push(Complaint::new(
                value.span(),
                format!("{text:?} is an IPv4 address in IPv6 clothes"),
                format!("write \"{}\"", address.to_canonical()),
            ));
            return None;
        }
        let link_local = match address {
            Self::V4(_) => false,
            Self::V6(v6) => v6.is_unicast_link_local(),
        };
        if address.is_loopback() || address.is_unspecified() || address.is_multicast() || link_local
        {
            wrong.push(Complaint::new(
                value.span(),
                format!("{text:?} does not say which workload is meant"),
                "write an address that other workloads reach it at: not a loopback, link-local, unspecified or multicast one",
            ));
            return None;
        }
        Some(address)
    }
}

impl Value for IpNet {
    fn read(value: &Spanned<DeValue<'_>>, _: &Shape, wrong: &mut Vec<Complaint>) -> Option<Self> {
        let text = text(value, "a network", r#""10.0.0.0/16""#, wrong)?;
        let Ok(network) = text.parse::<Self>() else {
            let single = text.parse::<IpAddr>().map(Self::from);
            wrong.push(Complaint::new(
                value.span(),
                format!("{text:?} is no network"),
                match single {
                    Ok(single) => format!("write the prefix length too: \"{single}\" for this one address"),
                    Err(_) => {
                        r#"write an address and a prefix length, such as "10.0.0.0/16" or "fd00::/48""#
                            .to_owned()
                    }
                },
            ));
            return None;
        };
        if network != network.trunc() {
            wrong.push(Complaint::new(
                value.span(),
                format!("{text:?} has bits set behind its prefix length"),
                format!(
                    "write \"{}\", or the length that was meant",
                    network.trunc()
                ),
            ));
            return None;
        }
        Some(network)
    }
}

impl Value for SocketAddr {
    fn read(
        value: &Spanned<DeValue<'_>>,
        shape: &Shape,
        wrong: &mut Vec<Complaint>,
    ) -> Option<Self> {
        let text = text(value, "an address and port", r#""127.0.0.1:15020""#, wrong)?;
        let Ok(address) = text.parse::<Self>() else {
            wrong.push(Complaint::new(
                value.span(),
                format!("{text:?} is no address and port"),
                r#"write both, such as "127.0.0.1:15020" or "[::1]:15020"; names are not looked up"#,
            ));
            return None;
        };
        if *shape == Shape::Peer && (address.port() == 0 || address.ip().is_unspecified()) {
            wrong.push(Complaint::new(
                value.span(),
                format!("nothing can be reached at {text:?}"),
                "write the address and the port at which the peer's daemon takes tunnels",
            ));
            return None;
        }
        Some(address)
    }
}
