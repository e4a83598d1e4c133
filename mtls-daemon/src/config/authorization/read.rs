//! From the file's tables to policies. What cannot be judged without reading
//! what is said in a connection is a mistake: half a rule would allow more, or
//! deny less, than it says.

use std::sync::Arc;

use toml::Spanned;
use toml::de::DeValue;

use crate::spiffe::SpiffeId;

use super::super::keys::Shape;
use super::super::mistakes::Complaint;
use super::super::reader::Part;
use super::super::value::{Value, is_name, text};
use super::pattern::{NoPattern, Pattern};
use super::{Action, AuthorizationPolicy, Operation, Rule, Scope, Selected, Source};

/// A policy, and the parts of the file that it was read from.
pub(in super::super) struct Read<'r> {
    pub(in super::super) policy: AuthorizationPolicy,
    pub(in super::super) part: Part<'r>,
    /// Of each rule.
    pub(super) rules: Vec<Clauses<'r>>,
}

pub(super) struct Clauses<'r> {
    pub(super) from: Vec<Part<'r>>,
    pub(super) to: Vec<Part<'r>>,
}

/// Every `[[authorization-policy]]` that could be read.
pub(in super::super) fn read<'r>(root: &Part<'r>) -> Vec<Read<'r>> {
    let parts = root.each("authorization-policy");
    parts.into_iter().filter_map(policy).collect()
}

/// A policy has one name, on the whole node.
pub(in super::super) fn unique(read: &[Read<'_>], others: &[AuthorizationPolicy]) {
    for (nth, Read { policy, part, .. }) in read.iter().enumerate() {
        let before = read[..nth].iter().map(|read| &read.policy);
        let mut all = before.chain(others);
        if let Some(other) = all.find(|other| other.name == policy.name) {
            part.complain(
                part.at("name"),
                format!(
                    "another policy is called {:?} already, at {}",
                    other.name, other.written
                ),
                "give each its own name",
            );
        }
    }
}

fn policy(part: Part<'_>) -> Option<Read<'_>> {
    let name = part.get::<String>("name");
    let action = part.get::<Action>("action");
    let dry_run = part.get::<bool>("dry_run");
    let workloads = list::<Selected>(&part, "workloads");
    let label = name.clone().unwrap_or_default();
    let tables = part.each("rules");
    let count = tables.len();
    let read = tables
        .into_iter()
        .enumerate()
        .filter_map(|(nth, table)| rule(&table, format!("{label}[{nth}]").into()));
    let (rules, clauses): (Vec<_>, Vec<_>) = read.unzip();
    let policy = AuthorizationPolicy {
        name: name?,
        action: action?,
        dry_run: dry_run?,
        workloads: match workloads? {
            none if none.is_empty() => Scope::All,
            some => Scope::Any(some),
        },
        // One that is left out for its mistakes must not make another policy.
        rules: (rules.len() == count).then_some(rules)?,
        written: part.written(part.at("name")),
    };
    Some(Read {
        policy,
        part,
        rules: clauses,
    })
}

fn rule<'r>(part: &Part<'r>, label: Arc<str>) -> Option<(Rule, Clauses<'r>)> {
    let clauses = Clauses {
        from: clauses(part, "from"),
        to: clauses(part, "to"),
    };
    let from: Option<Vec<_>> = clauses.from.iter().map(source).collect();
    let to: Option<Vec<_>> = clauses.to.iter().map(operation).collect();
    let rule = Rule {
        label,
        from: from?,
        to: to?,
        when: Vec::new(),
        written: part.written(part.whole()),
    };
    Some((rule, clauses))
}

/// An empty table or list in a rule would mean "any", which nobody should get
/// by leaving something out.
fn clauses<'r>(part: &Part<'r>, name: &str) -> Vec<Part<'r>> {
    let clauses = part.each(name);
    if clauses.is_empty() && part.has(name) {
        let remedy = format!("take {name} out if the rule shall match any");
        part.complain(part.at(name), format!("{name} is empty"), remedy);
    }
    for clause in &clauses {
        if clause.is_empty() {
            let what = format!("this item of {name} says nothing");
            let remedy = format!("take {name} out if the rule shall match any");
            clause.complain(clause.whole(), what, remedy);
        }
    }
    clauses
}

fn source(part: &Part<'_>) -> Option<Source> {
    let principals = principals(part, "principals");
    let not_principals = self::principals(part, "not_principals");
    let namespaces = list(part, "namespaces");
    let not_namespaces = list(part, "not_namespaces");
    let ip_blocks = list(part, "ip_blocks");
    let not_ip_blocks = list(part, "not_ip_blocks");
    let remote_ip_blocks = list(part, "remote_ip_blocks");
    let not_remote_ip_blocks = list(part, "not_remote_ip_blocks");
    Some(Source {
        principals: principals?,
        not_principals: not_principals?,
        namespaces: namespaces?,
        not_namespaces: not_namespaces?,
        ip_blocks: ip_blocks?,
        not_ip_blocks: not_ip_blocks?,
        remote_ip_blocks: remote_ip_blocks?,
        not_remote_ip_blocks: not_remote_ip_blocks?,
    })
}

fn operation(part: &Part<'_>) -> Option<Operation> {
    let ports = list(part, "ports");
    let not_ports = list(part, "not_ports");
    Some(Operation {
        ports: ports?,
        not_ports: not_ports?,
    })
}

/// A list that is left out is empty; one that is written is not.
pub(in super::super) fn list<T>(part: &Part<'_>, name: &str) -> Option<Vec<T>>
where
    Vec<T>: Value,
{
    if !part.has(name) {
        return Some(Vec::new());
    }
    let items: Vec<T> = part.get(name)?;
    if items.is_empty() {
        let what = format!("{name} is empty");
        let remedy = "write at least one, or take it out if it shall be any";
        part.complain(part.at(name), what, remedy);
        return None;
    }
    Some(items)
}

/// Patterns of SPIFFE IDs, which Istio writes without `spiffe://`.
fn principals(part: &Part<'_>, name: &str) -> Option<Vec<Pattern>> {
    let written: Vec<Pattern> = list(part, name)?;
    let mut good = Vec::new();
    for (nth, pattern) in written.into_iter().enumerate() {
        match without_scheme(pattern) {
            Ok(pattern) => good.push(pattern),
            Err(what) => part.complain(
                part.at_item(name, nth),
                what,
                "write a SPIFFE ID such as \"spiffe://example.org/web\", or its start or end with a *",
            ),
        }
    }
    Some(good)
}

/// A pattern of SPIFFE IDs, as Istio writes it.
pub fn principal(text: &str) -> Result<Pattern, String> {
    without_scheme(Pattern::parse(text).map_err(|no| no.explain(text))?)
}

fn without_scheme(pattern: Pattern) -> Result<Pattern, String> {
    let shown = pattern.to_string();
    let bare = |text: String| match text.strip_prefix("spiffe://") {
        Some(rest) => rest.to_owned(),
        None => text,
    };
    let pattern = match pattern {
        Pattern::Exact(text) => {
            let text = bare(text);
            format!("spiffe://{text}")
                .parse::<SpiffeId>()
                .map_err(|error| format!("{shown:?} is no SPIFFE ID: {error}"))?;
            Pattern::Exact(text)
        }
        Pattern::Prefix(start) => match bare(start) {
            // "spiffe://*"
            none if none.is_empty() => Pattern::Present,
            start => Pattern::Prefix(start),
        },
        other => other,
    };
    let part = match &pattern {
        Pattern::Prefix(part) | Pattern::Suffix(part) => part,
        Pattern::Exact(_) | Pattern::Present => return Ok(pattern),
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
    match part.chars().find(|c| !fits(*c)) {
        Some(c) => Err(format!("{shown:?} matches no SPIFFE ID: none has a {c:?}")),
        None => Ok(pattern),
    }
}

impl Value for Pattern {
    fn read(value: &Spanned<DeValue<'_>>, _: &Shape, wrong: &mut Vec<Complaint>) -> Option<Self> {
        let text = text(value, "a text", r#""shop""#, wrong)?;
        Self::parse(text)
            .map_err(|no| {
                let remedy = match no {
                    NoPattern::Empty => "take it out",
                    NoPattern::Star => "write one * at its start, at its end, or alone",
                };
                wrong.push(Complaint::new(value.span(), no.explain(text), remedy));
            })
            .ok()
    }
}

impl Value for Selected {
    fn read(
        value: &Spanned<DeValue<'_>>,
        shape: &Shape,
        wrong: &mut Vec<Complaint>,
    ) -> Option<Self> {
        let text = text(value, "a workload", r#""db""#, wrong)?;
        let mut complain = |what, remedy: &str| {
            wrong.push(Complaint::new(value.span(), what, remedy));
        };
        if text.starts_with("spiffe://") {
            let pattern = <Pattern as Value>::read(value, shape, wrong)?;
            return match without_scheme(pattern) {
                Ok(pattern) => Some(Self::Id(pattern)),
                Err(what) => {
                    let remedy = "write a SPIFFE ID such as \"spiffe://example.org/db\"";
                    wrong.push(Complaint::new(value.span(), what, remedy));
                    None
                }
            };
        }
        // A pod's name has one slash.
        if text.splitn(2, '/').all(is_name) {
            return Some(Self::Name(text.to_owned()));
        }
        if text.contains('*') {
            complain(
                format!("{text:?}: names have no wildcards"),
                "take workloads out to select all, or write SPIFFE IDs such as \"spiffe://example.org/ns/shop/*\"",
            );
        } else {
            complain(
                format!("{text:?} is no name of a workload"),
                "write a name such as \"db\", a pod's as NAMESPACE/POD, or a SPIFFE ID",
            );
        }
        None
    }
}

/// What is wrong with a key that Istio has and this daemon cannot judge.
pub(in super::super) fn beyond_l4(section: &str, key: &str) -> Option<(String, &'static str)> {
    if !section.starts_with("authorization-policy") {
        return None;
    }
    let plain: String = key.chars().filter(|c| *c != '_').collect();
    let plain = plain.to_ascii_lowercase();
    let remedy = match plain.trim_start_matches("not") {
        "methods" | "paths" | "hosts" | "requestprincipals" => {
            "take the rule out: it speaks of HTTP requests, which this daemon does not read; enforce it in the application, or in a proxy before it"
        }
        "when" => {
            "write it as from (source.*, remote.ip) or to (destination.port); request.* and the like speak of HTTP, which this daemon does not read"
        }
        "serviceaccounts" => "write principals, such as \"*/ns/shop/sa/web\"",
        "source" | "operation" | "spec" | "metadata" => "write its keys right here, without it",
        "selector" | "matchlabels" | "targetref" | "targetrefs" => {
            "write workloads = [..], with names or SPIFFE IDs"
        }
        "provider" => "take it out: there are no external authorisers",
        _ => return None,
    };
    Some((
        format!("{key} is not understood here, and nothing of a policy is ignored"),
        remedy,
    ))
}
