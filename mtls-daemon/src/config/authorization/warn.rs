//! What is strange about policies: rules that can never match, names that
//! nobody has, and patterns that match more than their writer may think.

use std::ops::Range;

use ipnet::IpNet;

use super::super::Config;
use super::super::mistakes::Complaint;
use super::super::reader::Part;
use super::pattern::Pattern;
use super::read::{Clauses, Read};
use super::{Action, Operation, Rule, Scope, Selected, Source};

/// `config` is all that the policies may speak of.
pub(in super::super) fn warn(read: &[Read<'_>], config: &Config, warnings: &mut Vec<Complaint>) {
    let mut strange = Strange {
        known: Known::of(config),
        warnings,
    };
    for read in read {
        strange.policy(read);
    }
}

/// Whether nobody here can be meant.
pub(in super::super) fn unknown(selected: &Selected, config: &Config) -> bool {
    !Known::of(config).has(selected)
}

/// What this node has heard of.
struct Known<'c> {
    config: &'c Config,
    names: Vec<&'c str>,
    /// SPIFFE IDs, without `spiffe://`.
    ids: Vec<&'c str>,
}

struct Strange<'c, 'w> {
    known: Known<'c>,
    warnings: &'w mut Vec<Complaint>,
}

impl<'c> Known<'c> {
    fn of(config: &'c Config) -> Self {
        let workloads = config.workloads.iter();
        let peers = config.peers.iter();
        let both = workloads
            .map(|workload| (&workload.name, &workload.spiffe_id))
            .chain(peers.map(|peer| (&peer.name, &peer.spiffe_id)));
        let (names, ids) = both
            .map(|(name, id)| (name.as_str(), without_scheme(id.as_str())))
            .unzip();
        Self { config, names, ids }
    }

    /// Whom a cluster has, no file can say.
    fn is_whole(&self) -> bool {
        self.config.kubernetes.is_none()
    }

    fn has(&self, selected: &Selected) -> bool {
        match selected {
            Selected::Name(name) if name.contains('/') => !self.is_whole(),
            Selected::Name(name) => self.names.contains(&name.as_str()),
            Selected::Id(pattern) => !self.is_whole() || self.has_id(pattern),
        }
    }

    fn has_id(&self, pattern: &Pattern) -> bool {
        self.ids.iter().any(|id| pattern.matches(id))
    }
}

fn without_scheme(id: &str) -> &str {
    id.strip_prefix("spiffe://").unwrap_or(id)
}

impl Strange<'_, '_> {
    fn say(&mut self, at: Range<usize>, what: String, remedy: &str) {
        self.warnings.push(Complaint::new(at, what, remedy));
    }

    fn policy(&mut self, read: &Read<'_>) {
        let (policy, part) = (&read.policy, &read.part);
        if policy.rules.is_empty() && policy.action == Action::Deny {
            self.say(
                part.at("name"),
                format!("policy {:?} has no rules, so it never denies anything", policy.name),
                "write [[authorization-policy.rules]] below it: one that says nothing else denies all",
            );
        }
        if let Scope::Any(selected) = &policy.workloads {
            for (nth, one) in selected.iter().enumerate() {
                self.selected(one, part, nth);
            }
        }
        for (rule, clauses) in policy.rules.iter().zip(&read.rules) {
            self.rule(rule, clauses);
        }
    }

    fn selected(&mut self, one: &Selected, part: &Part<'_>, nth: usize) {
        if !self.known.has(one) {
            self.say(
                part.at_item("workloads", nth),
                format!("no workload is {one}, so the policy does not protect it"),
                "correct it, or add the [[workload]]",
            );
        }
        if let Selected::Id(pattern) = one {
            self.reaches_far(pattern, part.at_item("workloads", nth));
        }
    }

    fn rule(&mut self, rule: &Rule, clauses: &Clauses<'_>) {
        for (source, part) in rule.from.iter().zip(&clauses.from) {
            self.source(source, part);
        }
        for (operation, part) in rule.to.iter().zip(&clauses.to) {
            self.operation(operation, part);
        }
    }

    fn source(&mut self, source: &Source, part: &Part<'_>) {
        let lists = [
            ("principals", &source.principals, &source.not_principals),
            ("namespaces", &source.namespaces, &source.not_namespaces),
        ];
        for (key, wanted, excluded) in lists {
            if all_covered(wanted, excluded, |wide, narrow| wide.covers(narrow)) {
                self.never(part, key);
            }
        }
        let lists = [
            ("ip_blocks", &source.ip_blocks, &source.not_ip_blocks),
            (
                "remote_ip_blocks",
                &source.remote_ip_blocks,
                &source.not_remote_ip_blocks,
            ),
        ];
        for (key, wanted, excluded) in lists {
            if all_covered(wanted, excluded, |wide: &IpNet, narrow| {
                wide.contains(narrow)
            }) {
                self.never(part, key);
            }
        }
        for (key, patterns) in [
            ("principals", &source.principals),
            ("not_principals", &source.not_principals),
        ] {
            for (nth, pattern) in patterns.iter().enumerate() {
                self.principal(pattern, part.at_item(key, nth));
            }
        }
        for (key, patterns) in [
            ("namespaces", &source.namespaces),
            ("not_namespaces", &source.not_namespaces),
        ] {
            for (nth, pattern) in patterns.iter().enumerate() {
                self.namespace(pattern, part.at_item(key, nth));
            }
        }
    }

    fn principal(&mut self, pattern: &Pattern, at: Range<usize>) {
        if self.known.is_whole() && *pattern != Pattern::Present && !self.known.has_id(pattern) {
            self.say(
                at.clone(),
                format!("no workload and no peer is {pattern}, so this never matches"),
                "correct it, or add the [[peer]]",
            );
        }
        self.reaches_far(pattern, at);
    }

    /// `example.org*` is `example.org.evil/anything`, too.
    fn reaches_far(&mut self, pattern: &Pattern, at: Range<usize>) {
        if let Pattern::Prefix(start) = pattern
            && !start.contains('/')
        {
            self.say(
                at,
                format!("{pattern} matches every trust domain whose name begins like that"),
                "write a slash before the *, if one trust domain is meant",
            );
        }
    }

    fn namespace(&mut self, pattern: &Pattern, at: Range<usize>) {
        let shown = pattern.to_string();
        if shown.contains(['/', ':']) {
            self.say(
                at,
                format!("no namespace is {shown}, so this never matches"),
                "write the namespace's name alone",
            );
        } else if let [first, ..] = self.known.config.identity.federated.as_slice() {
            self.say(
                at,
                format!(
                    "namespaces are those of every trust domain, such as {}",
                    first.trust_domain
                ),
                "write principals, such as \"example.org/ns/shop/*\", if one trust domain is meant",
            );
        }
    }

    fn operation(&mut self, operation: &Operation, part: &Part<'_>) {
        if all_covered(&operation.ports, &operation.not_ports, u16::eq) {
            self.never(part, "ports");
        }
        for (nth, port) in operation.ports.iter().enumerate() {
            let network = &self.known.config.network;
            let why = if *port == network.tunnel_port {
                "is the port of the tunnels, which no connection in a tunnel is to"
            } else if network.excluded_inbound_ports.contains(port) {
                "is in network.excluded_inbound_ports: its connections do not come to the daemon"
            } else {
                continue;
            };
            self.say(
                part.at_item("ports", nth),
                format!("{port} {why}, so this never matches"),
                "take it out, or correct it",
            );
        }
    }

    fn never(&mut self, part: &Part<'_>, key: &str) {
        self.say(
            part.at(key),
            format!("all of {key} is excluded by not_{key}, so this never matches"),
            "take one of them out",
        );
    }
}

/// Whether what is wanted is all excluded.
fn all_covered<T>(wanted: &[T], excluded: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
    let covered = |narrow: &T| excluded.iter().any(|wide| covers(wide, narrow));
    !wanted.is_empty() && wanted.iter().all(covered)
}
