//! What an operator asks: would this connection be let in, and why?

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::{Config, Holds, Mode, Rule, RuleSource, Workload};
use crate::spiffe::SpiffeId;
use crate::workload::Target;

use super::explain::Explanation;
use super::modes::Modes;
use super::rules::{Connection, Rules};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// `None`: a caller that has proved nothing.
    pub from: Option<SpiffeId>,
    /// Where it calls from; `None`: where the directory knows it.
    pub ip: Option<IpAddr>,
    /// A name, or a SPIFFE ID.
    pub workload: String,
    pub port: u16,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoAnswer {
    #[error(
        "no workload, pod or peer is called {0:?}: write its name, NAMESPACE/POD, or its SPIFFE ID"
    )]
    NobodyIsCalled(String),
    #[error(
        "{0} is no workload of this node, and policies of the cluster speak of this node's pods only: ask its own node's daemon"
    )]
    NotHere(String),
    #[error("policies judge the caller's address, and nobody knows it: give it with --ip")]
    NoAddress,
}

impl Question {
    /// Ask `modes` and `rules`. The configuration knows names and addresses, and `pods`
    /// are the workloads beside it.
    pub fn ask(
        &self,
        modes: &Modes,
        rules: &Rules,
        config: &Config,
        pods: &[Workload],
    ) -> Result<Explanation, NoAnswer> {
        let workloads = config.workloads.iter().chain(pods);
        let workloads = workloads.map(|w| (&w.name, &w.spiffe_id, &w.addresses));
        let here = workloads.clone();
        let peers = config.peers.iter();
        let peers = peers.map(|p| (&p.name, &p.spiffe_id, &p.addresses));
        let mut known = workloads.chain(peers);
        let asked: Option<SpiffeId> = self.workload.parse().ok();
        let mut found = known.clone();
        let found = found.find(|(name, id, _)| match &asked {
            Some(asked) => *id == asked,
            None => **name == self.workload,
        });
        let target = match (found, &asked) {
            (Some((name, id, _)), _) => Target { name, id },
            (None, Some(id)) => Target { name: "", id },
            (None, None) => return Err(NoAnswer::NobodyIsCalled(self.workload.clone())),
        };
        // Of other nodes' workloads nobody here knows the mode.
        if self.from.is_none() && modes.at(target.name, self.port) == Some(Mode::Strict) {
            return Ok(Explanation::strict());
        }
        if rules.select_pods() && !here.clone().any(|one| Some(one) == found) {
            return Err(NoAnswer::NotHere(self.workload.clone()));
        }
        let mut directory = |from: &SpiffeId| {
            let (_, _, addresses) = known.find(|(_, id, _)| *id == from)?;
            addresses.first().copied()
        };
        let ip = self.ip.or_else(|| directory(self.from.as_ref()?));
        let address = match ip {
            Some(ip) => ip,
            None if judges_addresses(rules, target) => return Err(NoAnswer::NoAddress),
            // Nothing looks at it.
            None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        let own = found.into_iter().flat_map(|(_, _, addresses)| addresses);
        let same_family = |own: &&IpAddr| own.is_ipv4() == address.is_ipv4();
        let destination = own.clone().find(same_family).or_else(|| own.clone().next());
        Ok(rules.explain(&Connection {
            workload: target,
            principal: self.from.as_ref(),
            source: address,
            remote: address,
            destination: *destination.unwrap_or(&IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            port: self.port,
        }))
    }
}

fn judges_addresses(rules: &Rules, workload: Target<'_>) -> bool {
    let judges = |from: &RuleSource| {
        let blocks = [
            &from.ip_blocks,
            &from.not_ip_blocks,
            &from.remote_ip_blocks,
            &from.not_remote_ip_blocks,
        ];
        blocks.iter().any(|blocks| !blocks.is_empty())
    };
    let by_address = |rule: &Rule| {
        let mut when = rule.when.iter();
        rule.from.iter().any(judges)
            || when.any(|it| matches!(&it.holds, Holds::From(from) if judges(from)))
    };
    let mut policies = rules.selecting(workload);
    policies.any(|policy| policy.rules.iter().any(by_address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = r#"
version = 1
[node]
name = "a"
[identity]
trust_domain = "example.org"
[identity.disk-ca]
certificate = "/ca.pem"
key = "/key.pem"
[[peer]]
name = "web"
spiffe_id = "spiffe://example.org/web"
addresses = ["10.0.1.4"]
[[peer]]
name = "db"
spiffe_id = "spiffe://example.org/db"
addresses = ["10.0.2.7"]
[[workload]]
name = "cache"
spiffe_id = "spiffe://example.org/cache"
netns = "/run/netns/cache"
addresses = ["10.0.3.7"]
port_modes = [{ port = 81, mode = "permissive" }]
[[authorization-policy]]
name = "near"
workloads = ["db"]
rules = [{ from = [{ ip_blocks = ["10.0.1.0/24"] }] }]
"#;

    fn ask(from: Option<&str>, workload: &str) -> Result<Explanation, NoAnswer> {
        ask_port(from, workload, 80)
    }

    fn ask_port(from: Option<&str>, workload: &str, port: u16) -> Result<Explanation, NoAnswer> {
        let config = crate::config::parse("x", NODE).unwrap();
        let rules = Rules::new(config.authorization.clone());
        let question = Question {
            from: from.map(|id| id.parse().unwrap()),
            ip: None,
            workload: workload.to_owned(),
            port,
        };
        question.ask(&Modes::new(&config, &[]), &rules, &config, &[])
    }

    #[test]
    fn the_directory_knows_where_a_caller_is() {
        let told = ask(Some("spiffe://example.org/web"), "db").unwrap();
        assert_eq!((told.allowed, told.rule.as_str()), (true, "near[0]"));
        let told = ask(Some("spiffe://example.org/db"), "spiffe://example.org/db").unwrap();
        assert_eq!((told.allowed, told.rule.as_str()), (false, "no_rule"));
        assert_eq!(told.steps[0].differs.as_deref(), Some("ip_blocks"));
    }

    #[test]
    fn what_is_not_known_is_asked_for_only_where_it_matters() {
        assert_eq!(ask(None, "db"), Err(NoAnswer::NoAddress));
        assert!(ask(None, "web").unwrap().allowed);
        let nobody = NoAnswer::NobodyIsCalled("dbb".to_owned());
        assert_eq!(ask(None, "dbb"), Err(nobody));
    }

    #[test]
    fn a_strict_workload_wants_an_identity() {
        let told = ask(None, "cache").unwrap();
        assert_eq!((told.allowed, told.rule.as_str()), (false, "strict"));
        let told = ask_port(None, "cache", 81).unwrap();
        assert_eq!((told.allowed, told.rule.as_str()), (true, "no_policy"));
        let told = ask(Some("spiffe://example.org/web"), "cache").unwrap();
        assert_eq!((told.allowed, told.rule.as_str()), (true, "no_policy"));
    }
}
