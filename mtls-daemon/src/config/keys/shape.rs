//! What a value must look like.

use std::fmt;
use std::time::Duration;

use super::super::units::{show_duration, show_size};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    Version,
    Bool,
    /// Letters, digits, '.', '-' and '_': it is shown in logs, metrics and tables.
    Name,
    /// A `tracing` filter.
    Filter,
    /// A systemd unit.
    Unit,
    Path,
    Port,
    /// A host's address, without a port.
    Ip,
    /// Address and port.
    Socket,
    /// Address and port, and the port is not 0.
    Peer,
    Network,
    SpiffeId,
    TrustDomain,
    ServicePort,
    PortWithMode,
    /// Of a server, without a path.
    Url,
    FileUrl,
    /// Path of something that is mounted in a Vault, without slashes at its ends.
    Mount,
    /// `type:value`, as SPIRE writes them.
    Selector,
    /// Of labels: a DNS name.
    LabelPrefix,
    /// Path of a SPIFFE ID, with placeholders.
    IdTemplate,
    /// Of a Secret, with a placeholder.
    SecretName,
    /// `exact`, `start*`, `*end` or `*`.
    Pattern,
    /// The name of a workload, or a pattern of SPIFFE IDs.
    WorkloadPattern,
    Choice(&'static [&'static str]),
    Duration(Duration, Duration),
    Size(u64, u64),
    Count(u64, u64),
    List(&'static Self),
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version => f.write_str("number"),
            Self::Bool => f.write_str("true or false"),
            Self::Name => f.write_str("name"),
            Self::Filter => f.write_str("filter"),
            Self::Unit => f.write_str("unit name"),
            Self::Path => f.write_str("absolute path"),
            Self::Port => f.write_str("port, 1 to 65535"),
            Self::Ip => f.write_str("address"),
            Self::Socket | Self::Peer => f.write_str("address:port"),
            Self::Network => f.write_str("network"),
            Self::SpiffeId => f.write_str("SPIFFE ID"),
            Self::TrustDomain => f.write_str("trust domain"),
            Self::ServicePort => f.write_str("port or { port, target }"),
            Self::PortWithMode => f.write_str("{ port, mode }"),
            Self::Url => f.write_str("URL of a server"),
            Self::FileUrl => f.write_str("URL of a file"),
            Self::Mount => f.write_str("path in Vault"),
            Self::Selector => f.write_str("selector"),
            Self::LabelPrefix => f.write_str("DNS name"),
            Self::IdTemplate => f.write_str("path of a SPIFFE ID"),
            Self::SecretName => f.write_str("name of a Secret"),
            Self::Pattern => f.write_str("pattern"),
            Self::WorkloadPattern => f.write_str("workload"),
            Self::Choice(words) => f.write_str(&words.join(" or ")),
            Self::Duration(min, max) => {
                let (min, max) = (show_duration(*min), show_duration(*max));
                write!(f, "duration, {min} to {max}")
            }
            Self::Size(min, max) => write!(f, "size, {} to {}", show_size(*min), show_size(*max)),
            Self::Count(min, max) => write!(f, "number, {min} to {max}"),
            Self::List(of) => write!(f, "list: {of}"),
        }
    }
}
