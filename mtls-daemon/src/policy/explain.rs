//! A decision told rule by rule, for `mtls-daemon policy test`.

use serde::{Deserialize, Serialize};

use super::matching;
use super::rules::{By, Connection, Rules, Verdict};

/// What the policies say of a connection, and what each of their rules says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub allowed: bool,
    /// `NAME[2]`, `no_policy` or `no_rule`: as in the access log. [`STRICT`]
    /// where the policies are not asked.
    pub rule: String,
    /// The same with dry runs in force, where one selects the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<DryRun>,
    /// Every rule of every policy that selects the workload, in their order.
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DryRun {
    pub allowed: bool,
    pub rule: String,
}

/// One rule, or a policy that has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// `NAME[2]`, or the policy's name.
    pub rule: String,
    /// ALLOW or DENY.
    pub action: String,
    pub dry_run: bool,
    /// `FILE:LINE`
    pub written: String,
    pub matches: bool,
    /// The key that does not agree; none where the rule matches, or there is
    /// no rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differs: Option<String>,
}

/// In the place of a rule: the caller has proved nothing, and the workload's
/// mode wants that it does.
pub const STRICT: &str = "strict";

impl Explanation {
    /// By the mode, whatever the policies would say.
    pub(super) fn strict() -> Self {
        Self {
            allowed: false,
            rule: STRICT.to_owned(),
            dry_run: None,
            steps: Vec::new(),
        }
    }
}

impl Rules {
    /// Decide, and say how it came to that.
    pub fn explain(&self, connection: &Connection<'_>) -> Explanation {
        let decision = self.inbound(connection);
        let told = |(verdict, by): (Verdict, By<'_>)| DryRun {
            allowed: verdict == Verdict::Allow,
            rule: self.label(by).to_string(),
        };
        let mut steps = Vec::new();
        for policy in self.selecting(connection.workload) {
            let step = |rule: &str, written: String, outcome: Option<Result<(), _>>| Step {
                rule: rule.to_owned(),
                action: policy.action.word().to_owned(),
                dry_run: policy.dry_run,
                written,
                matches: outcome == Some(Ok(())),
                differs: match outcome {
                    Some(Err(matching::Mismatch(key))) => Some(key.to_owned()),
                    _ => None,
                },
            };
            if policy.rules.is_empty() {
                steps.push(step(&policy.name, policy.written.to_string(), None));
            }
            for rule in &policy.rules {
                let outcome = matching::rule(rule, connection);
                steps.push(step(&rule.label, rule.written.to_string(), Some(outcome)));
            }
        }
        Explanation {
            allowed: decision.is_allowed(),
            rule: decision.label().to_string(),
            dry_run: decision.dry_run.map(told),
            steps,
        }
    }
}
