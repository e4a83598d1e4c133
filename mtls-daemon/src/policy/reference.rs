//! The policies against a plain evaluator, written from Istio's documentation
//! of AuthorizationPolicy and sharing no line with the one that decides: over
//! the texts of the files, one sentence of the documentation after the other.

use std::fmt::Write as _;
use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::spiffe::SpiffeId;
use crate::workload::Target;

use super::rules::{Connection, Rules, Verdict};

/// A policy as it is written.
#[derive(Clone, Debug)]
struct Policy {
    deny: bool,
    dry_run: bool,
    workloads: Vec<&'static str>,
    rules: Vec<(Vec<From>, Vec<To>)>,
}

/// Principals, namespaces, IP blocks and remote IP blocks; each with its not-.
#[derive(Clone, Debug)]
struct From([(Vec<&'static str>, Vec<&'static str>); 4]);

#[derive(Clone, Debug)]
struct To(Vec<u16>, Vec<u16>);

/// A connection to "db", which is spiffe://a.org/ns/x/sa/db.
#[derive(Clone, Debug)]
struct Call {
    /// Empty: none.
    principal: &'static str,
    source: IpAddr,
    remote: IpAddr,
    port: u16,
}

const KEYS: [&str; 4] = ["principals", "namespaces", "ip_blocks", "remote_ip_blocks"];

const PRINCIPALS: &[&str] = &[
    "",
    "a.org/ns/x/sa/p",
    "a.org/ns/y/sa/q",
    "b.org/ns/x/sa/p",
    "a.org/w",
];
const PRINCIPAL_PATTERNS: &[&str] = &[
    "spiffe://a.org/ns/x/sa/p",
    "a.org/w",
    "a.org/*",
    "spiffe://b.org/*",
    "*/sa/p",
    "*q",
    "*",
    "a*",
];
const NAMESPACE_PATTERNS: &[&str] = &["x", "y", "x*", "*y", "*"];
const BLOCKS: &[&str] = &[
    "10.0.1.0/24",
    "10.0.1.4/32",
    "10.0.0.0/8",
    "fd00::/64",
    "fd00::4/128",
    "0.0.0.0/0",
];
const ADDRESSES: &[&str] = &[
    "10.0.1.4",
    "10.0.1.200",
    "10.9.9.9",
    "192.0.2.1",
    "::ffff:10.0.1.4",
    "fd00::4",
    "fd01::1",
];
const WORKLOADS: &[&str] = &[
    "db",
    "web",
    "spiffe://a.org/*",
    "spiffe://a.org/ns/x/sa/db",
    "spiffe://b.org/*",
];

fn decide(policies: &[Policy], call: &Call, dry_runs_too: bool) -> Verdict {
    let in_force: Vec<&Policy> = policies
        .iter()
        .filter(|policy| dry_runs_too || !policy.dry_run)
        .filter(|policy| policy.workloads.is_empty() || policy.workloads.iter().any(is_db))
        .collect();
    // "If there are any DENY policies that match the request, deny the request."
    if in_force
        .iter()
        .any(|policy| policy.deny && matches(policy, call))
    {
        return Verdict::Deny;
    }
    // "If there are no ALLOW policies for the workload, allow the request."
    if in_force.iter().all(|policy| policy.deny) {
        return Verdict::Allow;
    }
    // "If any of the ALLOW policies match the request, allow the request."
    if in_force
        .iter()
        .any(|policy| !policy.deny && matches(policy, call))
    {
        return Verdict::Allow;
    }
    // "Deny the request."
    Verdict::Deny
}

fn is_db(selected: &&'static str) -> bool {
    match selected.strip_prefix("spiffe://") {
        Some(pattern) => text_matches(pattern, "a.org/ns/x/sa/db"),
        None => *selected == "db",
    }
}

/// "A match occurs when at least one rule matches the request." "If not set,
/// the match will never occur."
fn matches(policy: &Policy, call: &Call) -> bool {
    policy.rules.iter().any(|(from, to)| {
        // "If not set, any source is allowed." "If not set, any operation is allowed."
        (from.is_empty() || from.iter().any(|from| from_matches(from, call)))
            && (to.is_empty() || to.iter().any(|to| to_matches(to, call.port)))
    })
}

/// "Fields in the source are ANDed together."
fn from_matches(From(fields): &From, call: &Call) -> bool {
    let namespace = match call.principal.split('/').collect::<Vec<_>>().as_slice() {
        [_, "ns", namespace, "sa", _] => namespace,
        _ => "",
    };
    let [principals, namespaces, blocks, remote_blocks] = fields;
    agrees(principals, |pattern| {
        let pattern = pattern.strip_prefix("spiffe://").unwrap_or(pattern);
        text_matches(pattern, call.principal)
    }) && agrees(namespaces, |pattern| text_matches(pattern, namespace))
        && agrees(blocks, |block| block_has(block, call.source))
        && agrees(remote_blocks, |block| block_has(block, call.remote))
}

fn to_matches(To(ports, not_ports): &To, port: u16) -> bool {
    (ports.is_empty() || ports.contains(&port)) && !not_ports.contains(&port)
}

/// "If not set, any is allowed", and "a list of negative match".
fn agrees(field: &(Vec<&str>, Vec<&str>), is: impl Fn(&str) -> bool) -> bool {
    let (wanted, excluded) = field;
    (wanted.is_empty() || wanted.iter().any(|one| is(one))) && !excluded.iter().any(|one| is(one))
}

/// "Exact match", "Prefix match", "Suffix match", and "Presence match: `*`
/// will match when value is not empty". Who has nothing is matched by nothing.
fn text_matches(pattern: &str, text: &str) -> bool {
    if text.is_empty() {
        return false;
    }
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => text.len() >= end.len() && text[text.len() - end.len()..] == *end,
        (None, Some(start)) => text.len() >= start.len() && text[..start.len()] == *start,
        (None, None) => text == pattern,
    }
}

/// By the bits, as RFC 4632 counts them.
fn block_has(block: &str, address: IpAddr) -> bool {
    let (network, length) = block.split_once('/').unwrap();
    let (network, length) = (
        bits(network.parse().unwrap()),
        length.parse::<usize>().unwrap(),
    );
    let address = bits(address);
    network.len() == address.len() && network[..length] == address[..length]
}

fn bits(address: IpAddr) -> Vec<u8> {
    let bytes = match address {
        IpAddr::V4(four) => four.octets().to_vec(),
        IpAddr::V6(six) => match six.octets() {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, four @ ..] => four.to_vec(),
            all => all.to_vec(),
        },
    };
    let of = |byte: u8| (0..8).rev().map(move |bit| byte >> bit & 1);
    bytes.into_iter().flat_map(of).collect()
}

/// As the operator writes it.
fn toml(policies: &[Policy]) -> String {
    let mut out = String::from(
        "version = 1\n[node]\nname = \"a\"\n[identity]\ntrust_domain = \"a.org\"\n\
         [identity.disk-ca]\ncertificate = \"/ca.pem\"\nkey = \"/key.pem\"\n",
    );
    for (nth, policy) in policies.iter().enumerate() {
        let action = if policy.deny { "DENY" } else { "ALLOW" };
        let _ = write!(
            out,
            "[[authorization-policy]]\nname = \"p{nth}\"\naction = \"{action}\"\ndry_run = {}\n",
            policy.dry_run
        );
        list(&mut out, "workloads", &policy.workloads);
        for (from, to) in &policy.rules {
            out.push_str("[[authorization-policy.rules]]\n");
            for From(fields) in from {
                out.push_str("[[authorization-policy.rules.from]]\n");
                for (key, (wanted, excluded)) in KEYS.iter().zip(fields) {
                    list(&mut out, key, wanted);
                    list(&mut out, &format!("not_{key}"), excluded);
                }
            }
            for To(ports, not_ports) in to {
                out.push_str("[[authorization-policy.rules.to]]\n");
                list(&mut out, "ports", ports);
                list(&mut out, "not_ports", not_ports);
            }
        }
    }
    out
}

fn list(out: &mut String, key: &str, values: &[impl std::fmt::Debug]) {
    if !values.is_empty() {
        let _ = writeln!(out, "{key} = {values:?}");
    }
}

fn field(
    of: &'static [&'static str],
) -> impl Strategy<Value = (Vec<&'static str>, Vec<&'static str>)> {
    // Mostly one of them, or few rules would ever match.
    let some = |most| subsequence(of.to_vec(), 0..=most);
    prop_oneof![
        3 => Just((Vec::new(), Vec::new())),
        2 => some(3).prop_map(|wanted| (wanted, Vec::new())),
        1 => some(2).prop_map(|excluded| (Vec::new(), excluded)),
        1 => (some(3), some(1)),
    ]
}

fn from() -> impl Strategy<Value = From> {
    let fields = (
        field(PRINCIPAL_PATTERNS),
        field(NAMESPACE_PATTERNS),
        field(BLOCKS),
        field(BLOCKS),
    );
    fields
        .prop_map(|(a, b, c, d)| From([a, b, c, d]))
        .prop_filter("it says something", |From(fields)| {
            fields
                .iter()
                .any(|(wanted, excluded)| !wanted.is_empty() || !excluded.is_empty())
        })
}

fn to() -> impl Strategy<Value = To> {
    let ports = || subsequence(vec![80, 443, 5432], 0..=2);
    (ports(), ports())
        .prop_map(|(ports, not_ports)| To(ports, not_ports))
        .prop_filter("it says something", |To(ports, not_ports)| {
            !ports.is_empty() || !not_ports.is_empty()
        })
}

prop_compose! {
    fn policy()(
        deny in prop::bool::weighted(0.35),
        dry_run in prop::bool::weighted(0.2),
        workloads in prop_oneof![Just(Vec::new()), subsequence(WORKLOADS.to_vec(), 1..=2)],
        rules in vec((vec(from(), 0..3), vec(to(), 0..3)), 0..3),
    ) -> Policy {
        Policy { deny, dry_run, workloads, rules }
    }
}

prop_compose! {
    fn call()(
        principal in select(PRINCIPALS),
        source in select(ADDRESSES),
        remote in select(ADDRESSES),
        port in select(vec![80_u16, 443, 5432, 9]),
    ) -> Call {
        Call { principal, source: source.parse().unwrap(), remote: remote.parse().unwrap(), port }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn decisions_are_those_of_istios_documentation(
        policies in vec(policy(), 0..4),
        call in call(),
    ) {
        let text = toml(&policies);
        let config = crate::config::parse("policies", &text)
            .map_err(|wrong| TestCaseError::fail(format!("{wrong}\n{text}")))?;
        let rules = Rules::new(config.authorization);
        let principal = (!call.principal.is_empty())
            .then(|| format!("spiffe://{}", call.principal).parse::<SpiffeId>().unwrap());
        let connection = Connection {
            workload: Target {
                name: "db",
                id: &"spiffe://a.org/ns/x/sa/db".parse().unwrap(),
            },
            principal: principal.as_ref(),
            source: call.source,
            remote: call.remote,
            destination: call.source,
            port: call.port,
        };
        let decision = rules.inbound(&connection);
        prop_assert_eq!(decision.verdict, decide(&policies, &call, false), "{}", text);
        if let Some((would, _)) = decision.dry_run {
            prop_assert_eq!(would, decide(&policies, &call, true), "{}", text);
        }
        // What is explained is what was decided, for the same reason.
        let told = rules.explain(&connection);
        prop_assert_eq!(told.allowed, decision.is_allowed());
        prop_assert_eq!(&*told.rule, &**decision.label());
        let named = told.steps.iter().find(|step| step.rule == told.rule);
        prop_assert!(told.rule.starts_with("no_") || named.is_some_and(|step| step.matches));
    }
}
