//! The authorisation policies of a node, as one immutable set, and the one
//! function that decides by them.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::{Action, AuthorizationPolicy, Rule, Scope};
use crate::metrics::Decided;
use crate::spiffe::SpiffeId;
use crate::workload::Target;

use super::matching;

/// What is known of a connection when it is judged.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// Whom it is for.
    pub workload: Target<'a>,
    /// Who the caller has proved to be; `None`: it has proved nothing.
    pub principal: Option<&'a SpiffeId>,
    /// Where its packets come from.
    pub source: IpAddr,
    /// The first client, if a configured gateway stands before it; else the
    /// same as `source`.
    pub remote: IpAddr,
    /// The workload's address, and its port.
    pub destination: IpAddr,
    pub port: u16,
}

/// All policies of the node.
///
/// They are looked through one by one for each connection: a node has dozens,
/// and passing over one that selects another workload is a comparison.
#[derive(Debug)]
pub struct Rules {
    policies: Vec<AuthorizationPolicy>,
    /// What decisions are called that no rule made.
    no_policy: Arc<str>,
    no_rule: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    Deny,
}

/// What the policies say of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'r> {
    pub verdict: Verdict,
    pub by: By<'r>,
    /// What would have come of it if dry runs were none; only where one of
    /// them selects the workload.
    pub dry_run: Option<(Verdict, By<'r>)>,
    rules: &'r Rules,
}

/// Who decided.
#[derive(Clone, Copy, Debug)]
pub enum By<'r> {
    Rule(&'r Rule),
    /// No ALLOW policy selects the workload: whoever has proved an identity
    /// may come.
    NoPolicy,
    /// ALLOW policies do, and none of their rules matches.
    NoRule,
}

impl Default for Rules {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl PartialEq for Rules {
    fn eq(&self, other: &Self) -> bool {
        self.policies == other.policies
    }
}

impl Rules {
    pub fn new(policies: Vec<AuthorizationPolicy>) -> Self {
        Self {
            policies,
            no_policy: Arc::from("no_policy"),
            no_rule: Arc::from("no_rule"),
        }
    }

    /// And these.
    #[must_use]
    pub fn and(&self, policies: &[AuthorizationPolicy]) -> Self {
        Self::new([self.policies.as_slice(), policies].concat())
    }

    /// Whether objects of the cluster are among them, which speak of this
    /// node's pods only.
    pub(super) fn select_pods(&self) -> bool {
        let mut policies = self.policies.iter();
        policies.any(|policy| matches!(policy.workloads, Scope::Pods(_)))
    }

    /// The policies that speak of a workload's callers, dry runs among them,
    /// in the order of their files.
    pub fn selecting(
        &self,
        workload: Target<'_>,
    ) -> impl Iterator<Item = &AuthorizationPolicy> + Clone {
        let policies = self.policies.iter();
        policies.filter(move |policy| policy.workloads.selects(workload.name, workload.id))
    }

    /// Decide: a DENY policy that matches refuses; else, where ALLOW policies
    /// select the workload, one of them must match.
    pub fn inbound(&self, connection: &Connection<'_>) -> Decision<'_> {
        let (verdict, by) = self.judge(connection, false);
        let mut selecting = self.selecting(connection.workload);
        let has_dry_runs = selecting.any(|policy| policy.dry_run);
        Decision {
            verdict,
            by,
            dry_run: has_dry_runs.then(|| self.judge(connection, true)),
            rules: self,
        }
    }

    fn judge(&self, connection: &Connection<'_>, with_dry_runs: bool) -> (Verdict, By<'_>) {
        let in_force = self
            .selecting(connection.workload)
            .filter(|policy| with_dry_runs || !policy.dry_run);
        let of = |action| {
            in_force
                .clone()
                .filter(move |policy| policy.action == action)
        };
        let matching = |action| {
            let mut rules = of(action).flat_map(|policy| &policy.rules);
            rules.find(|rule| matching::rule(rule, connection).is_ok())
        };
        if let Some(rule) = matching(Action::Deny) {
            return (Verdict::Deny, By::Rule(rule));
        }
        if of(Action::Allow).next().is_none() {
            return (Verdict::Allow, By::NoPolicy);
        }
        match matching(Action::Allow) {
            Some(rule) => (Verdict::Allow, By::Rule(rule)),
            None => (Verdict::Deny, By::NoRule),
        }
    }

    /// What log and metrics call a decision by `by`.
    pub fn label<'r>(&'r self, by: By<'r>) -> &'r Arc<str> {
        match by {
            By::Rule(rule) => &rule.label,
            By::NoPolicy => &self.no_policy,
            By::NoRule => &self.no_rule,
        }
    }
}

impl<'r> Decision<'r> {
    /// `NAME[2]`, `no_policy` or `no_rule`.
    pub fn label(&self) -> &'r Arc<str> {
        self.rules.label(self.by)
    }

    /// What is counted of it: what was decided, and what dry runs would have.
    pub fn counted(&self) -> impl Iterator<Item = (&'r Arc<str>, Decided)> {
        let in_force = match self.verdict {
            Verdict::Allow => Decided::Allowed,
            Verdict::Deny => Decided::Denied,
        };
        let dry_run = self.dry_run.map(|(verdict, by)| {
            let decided = match verdict {
                Verdict::Allow => Decided::WouldAllow,
                Verdict::Deny => Decided::WouldDeny,
            };
            (self.rules.label(by), decided)
        });
        [(self.label(), in_force)].into_iter().chain(dry_run)
    }

    pub fn is_allowed(&self) -> bool {
        self.verdict == Verdict::Allow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The policies of a file, for workloads "db" and "web".
    fn rules(policies: &str) -> Rules {
        let text = format!(
            r#"
version = 1
[node]
name = "node-a"
[identity]
trust_domain = "example.org"
[identity.disk-ca]
certificate = "/ca.pem"
key = "/ca-key.pem"
{policies}"#
        );
        let config = crate::config::parse("x", &text).unwrap_or_else(|wrong| panic!("{wrong}"));
        Rules::new(config.authorization)
    }

    /// What becomes of a call from `caller` (`-` is nobody) at `ip` to a port
    /// of db, and why.
    fn ask(rules: &Rules, caller: &str, ip: &str, port: u16) -> (Verdict, String) {
        let caller: Option<SpiffeId> =
            (caller != "-").then(|| format!("spiffe://{caller}").parse().unwrap());
        let decision = rules.inbound(&Connection {
            workload: Target {
                name: "db",
                id: &"spiffe://example.org/ns/shop/sa/db".parse().unwrap(),
            },
            principal: caller.as_ref(),
            source: ip.parse().unwrap(),
            remote: ip.parse().unwrap(),
            destination: "10.0.2.7".parse().unwrap(),
            port,
        });
        (decision.verdict, decision.label().to_string())
    }

    fn allowed(by: &str) -> (Verdict, String) {
        (Verdict::Allow, by.to_owned())
    }

    fn denied(by: &str) -> (Verdict, String) {
        (Verdict::Deny, by.to_owned())
    }

    #[test]
    fn without_a_policy_whoever_comes_is_let_in() {
        let rules = rules(
            r#"
[[authorization-policy]]
name = "of-another"
workloads = ["web"]
"#,
        );
        assert_eq!(
            ask(&rules, "example.org/web", "10.0.1.4", 80),
            allowed("no_policy")
        );
    }

    #[test]
    fn an_allow_policy_refuses_whom_no_rule_names() {
        let rules = rules(
            r#"
[[authorization-policy]]
name = "callers"
workloads = ["db"]
[[authorization-policy.rules]]
from = [{ principals = ["spiffe://example.org/web"] }]
to = [{ ports = [5432] }]
[[authorization-policy.rules]]
from = [{ namespaces = ["ops"] }]
"#,
        );
        let ask = |caller, port| ask(&rules, caller, "10.0.1.4", port);
        assert_eq!(ask("example.org/web", 5432), allowed("callers[0]"));
        assert_eq!(ask("example.org/web", 80), denied("no_rule"));
        assert_eq!(ask("example.org/webx", 5432), denied("no_rule"));
        assert_eq!(ask("evil.org/web", 5432), denied("no_rule"));
        assert_eq!(ask("example.org/ns/ops/sa/x", 80), allowed("callers[1]"));
        assert_eq!(ask("-", 5432), denied("no_rule"), "a principal is wanted");
    }

    #[test]
    fn deny_goes_before_allow() {
        let rules = rules(
            r#"
[[authorization-policy]]
name = "all"
rules = [{}]
[[authorization-policy]]
name = "not-web"
action = "DENY"
rules = [{ from = [{ principals = ["*/web"] }] }]
"#,
        );
        let ask = |caller| ask(&rules, caller, "10.0.1.4", 80);
        assert_eq!(ask("example.org/web"), denied("not-web[0]"));
        assert_eq!(ask("example.org/api"), allowed("all[0]"));
        assert_eq!(ask("-"), allowed("all[0]"));
    }

    #[test]
    fn a_policy_without_rules_never_matches() {
        let rule_less = |action: &str| {
            rules(&format!(
                "[[authorization-policy]]\nname = \"none\"\naction = \"{action}\"\n"
            ))
        };
        let by_allow = ask(&rule_less("ALLOW"), "example.org/web", "10.0.1.4", 80);
        assert_eq!(by_allow, denied("no_rule"));
        let by_deny = ask(&rule_less("DENY"), "example.org/web", "10.0.1.4", 80);
        assert_eq!(by_deny, allowed("no_policy"));
    }

    #[test]
    fn what_is_not_wanted_is_matched_by_nobody_too() {
        let rules = rules(
            r#"
[[authorization-policy]]
name = "only-shop"
action = "DENY"
rules = [{ from = [{ not_namespaces = ["shop"] }] }]
"#,
        );
        let ask = |caller| ask(&rules, caller, "10.0.1.4", 80);
        assert_eq!(ask("example.org/ns/shop/sa/web"), allowed("no_policy"));
        assert_eq!(ask("example.org/ns/test/sa/web"), denied("only-shop[0]"));
        assert_eq!(ask("-"), denied("only-shop[0]"));
    }

    #[test]
    fn addresses_are_the_same_in_either_family() {
        let rules = rules(
            r#"
[[authorization-policy]]
name = "near"
rules = [{ from = [{ ip_blocks = ["10.0.1.0/24"], not_ip_blocks = ["10.0.1.9/32"] }] }]
"#,
        );
        let ask = |ip| ask(&rules, "example.org/web", ip, 80);
        assert_eq!(ask("10.0.1.4"), allowed("near[0]"));
        assert_eq!(ask("::ffff:10.0.1.4"), allowed("near[0]"));
        assert_eq!(ask("::ffff:10.0.1.9"), denied("no_rule"));
        assert_eq!(ask("10.0.2.4"), denied("no_rule"));
    }

    #[test]
    fn a_dry_run_decides_nothing_and_is_told() {
        let rules = rules(
            r#"
[[authorization-policy]]
name = "trial"
dry_run = true
rules = [{ to = [{ ports = [80] }] }]
"#,
        );
        let id: SpiffeId = "spiffe://example.org/db".parse().unwrap();
        for (port, verdict, label) in [
            (80, Verdict::Allow, "trial[0]"),
            (81, Verdict::Deny, "no_rule"),
        ] {
            let decision = rules.inbound(&Connection {
                workload: Target {
                    name: "db",
                    id: &id,
                },
                principal: None,
                source: "10.0.1.4".parse().unwrap(),
                remote: "10.0.1.4".parse().unwrap(),
                destination: "10.0.2.7".parse().unwrap(),
                port,
            });
            assert_eq!(decision.verdict, Verdict::Allow);
            assert_eq!(&**decision.label(), "no_policy");
            let (would, by) = decision.dry_run.unwrap();
            assert_eq!((would, &**rules.label(by)), (verdict, label));
        }
    }
}
