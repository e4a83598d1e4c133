//! `[[authorization-policy]]`: who may connect to which workloads, in the
//! words and with the meaning of Istio's AuthorizationPolicy, as far as they
//! can be judged without looking into the bytes.
//!
//! What is read here is only text that holds together; whether a connection
//! matches is decided in `policy`.

mod pattern;
mod read;
mod warn;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use crate::spiffe::SpiffeId;

pub use pattern::Pattern;
pub use read::principal;
pub(super) use read::{beyond_l4, list, read, unique};
pub(super) use warn::{unknown, warn};

/// One policy.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationPolicy {
    /// Unique on the node.
    pub name: String,
    pub action: Action,
    /// It decides nothing: what it would decide is counted.
    pub dry_run: bool,
    /// Whose callers it speaks of.
    pub workloads: Scope,
    /// It matches if one of them does; without any it never matches.
    pub rules: Vec<Rule>,
    pub written: Written,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
}

/// The workloads that a policy speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    All,
    Any(Vec<Selected>),
    /// Pods that an object of the cluster selects, as NAMESPACE/POD.
    Pods(BTreeSet<String>),
}

/// One item of `workloads`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    /// By the name of a `[[workload]]`, or `NAMESPACE/POD`.
    Name(String),
    /// By its SPIFFE ID.
    Id(Pattern),
}

/// It matches if one of `from` does, one of `to`, and all of `when`; an empty
/// list is whoever, and whatever.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// `NAME[2]`: what the access log and the metrics call it.
    pub label: Arc<str>,
    pub from: Vec<Source>,
    pub to: Vec<Operation>,
    /// Only objects of the cluster have it.
    pub when: Vec<Condition>,
    pub written: Written,
}

/// What `when` asks besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its key, as Istio calls it.
    pub key: &'static str,
    pub holds: Holds,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    From(Source),
    To(Operation),
    /// The workload's address is in one of the first, and in none of the others.
    At(Vec<IpNet>, Vec<IpNet>),
    /// It cannot be judged here.
    Never,
}

/// Where a connection comes from: every list that is not empty must agree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    pub principals: Vec<Pattern>,
    pub not_principals: Vec<Pattern>,
    pub namespaces: Vec<Pattern>,
    pub not_namespaces: Vec<Pattern>,
    pub ip_blocks: Vec<IpNet>,
    pub not_ip_blocks: Vec<IpNet>,
    pub remote_ip_blocks: Vec<IpNet>,
    pub not_remote_ip_blocks: Vec<IpNet>,
}

/// What a connection is to: the port at the workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    pub ports: Vec<u16>,
    pub not_ports: Vec<u16>,
}

/// Where something stands. Two things that say the same are equal, wherever
/// they stand.
#[derive(Clone, Debug)]
pub enum Written {
    File {
        file: Arc<str>,
        line: usize,
        /// One of `policy.directory`, and not the configuration itself.
        in_directory: bool,
    },
    /// An object of the cluster, by its kind and name.
    Object(Arc<str>),
}

impl Written {
    pub(super) fn in_directory(&self) -> bool {
        matches!(
            self,
            Self::File {
                in_directory: true,
                ..
            }
        )
    }
}

impl PartialEq for Written {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line, .. } => write!(f, "{file}:{line}"),
            Self::Object(object) => f.write_str(object),
        }
    }
}

impl Scope {
    pub fn selects(&self, name: &str, id: &SpiffeId) -> bool {
        match self {
            Self::All => true,
            Self::Any(selected) => selected.iter().any(|one| one.is(name, id)),
            Self::Pods(pods) => pods.contains(name),
        }
    }
}

impl Selected {
    pub fn is(&self, name: &str, id: &SpiffeId) -> bool {
        match self {
            Self::Name(wanted) => wanted == name,
            Self::Id(pattern) => pattern.matches(id.principal()),
        }
    }
}

impl Action {
    /// As Istio writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
        }
    }
}

impl fmt::Display for Selected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Id(pattern) => match pattern {
                // Principals are written without it, workloads are told from
                // names by it.
                Pattern::Exact(id) => write!(f, "spiffe://{id}"),
                Pattern::Prefix(start) => write!(f, "spiffe://{start}*"),
                Pattern::Suffix(_) | Pattern::Present => pattern.fmt(f),
            },
        }
    }
}
