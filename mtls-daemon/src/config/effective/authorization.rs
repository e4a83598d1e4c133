//! Policies written out again: each table with every key.

use super::super::authentication::Of;
use super::super::{
    AuthorizationPolicy, Operation, Pattern, PeerAuthentication, Policy, Rule, RuleSource, Scope,
};
use super::{Block, block, list, path, plain, text, texts};

pub(super) fn policy_block(policy: &Policy) -> Block {
    let Policy { directory } = policy;
    let directory = directory.as_deref().and_then(path);
    block("policy", None, [("directory", directory)])
}

pub(super) fn authentication_block(authentication: &PeerAuthentication) -> Block {
    let PeerAuthentication {
        name,
        of,
        mode,
        port_modes,
    } = authentication;
    let (workloads, namespaces) = match of {
        Of::Workloads(selected) => (texts(selected), None),
        Of::Namespaces(patterns) => (None, texts(patterns)),
    };
    block(
        "peer-authentication",
        Some(name),
        [
            ("name", text(name)),
            ("workloads", workloads),
            ("namespaces", namespaces),
            ("mode", mode.as_ref().and_then(text)),
            ("port_modes", list(port_modes)),
        ],
    )
}

pub(super) fn authorization_blocks(policy: &AuthorizationPolicy, blocks: &mut Vec<Block>) {
    let AuthorizationPolicy {
        name,
        action,
        dry_run,
        workloads,
        rules,
        written: _,
    } = policy;
    let workloads = match workloads {
        Scope::All => None,
        Scope::Any(selected) => texts(selected),
        // No file has it.
        Scope::Pods(_) => None,
    };
    blocks.push(block(
        "authorization-policy",
        Some(name),
        [
            ("name", text(name)),
            ("action", text(action.word())),
            ("dry_run", plain(dry_run)),
            ("workloads", workloads),
        ],
    ));
    for rule in rules {
        rule_blocks(rule, blocks);
    }
}

fn rule_blocks(rule: &Rule, blocks: &mut Vec<Block>) {
    let Rule {
        label,
        from,
        to,
        // No file has it.
        when: _,
        written: _,
    } = rule;
    blocks.push(block("authorization-policy.rules", Some(label), []));
    for (nth, source) in from.iter().enumerate() {
        blocks.push(source_block(&format!("{label} {nth}"), source));
    }
    for (nth, operation) in to.iter().enumerate() {
        let Operation { ports, not_ports } = operation;
        blocks.push(block(
            "authorization-policy.rules.to",
            Some(&format!("{label} {nth}")),
            [
                ("ports", some(ports, list(ports))),
                ("not_ports", some(not_ports, list(not_ports))),
            ],
        ));
    }
}

fn source_block(item: &str, source: &RuleSource) -> Block {
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
    let patterns = |patterns: &[Pattern]| some(patterns, texts(patterns));
    block(
        "authorization-policy.rules.from",
        Some(item),
        [
            ("principals", patterns(principals)),
            ("not_principals", patterns(not_principals)),
            ("namespaces", patterns(namespaces)),
            ("not_namespaces", patterns(not_namespaces)),
            ("ip_blocks", some(ip_blocks, texts(ip_blocks))),
            ("not_ip_blocks", some(not_ip_blocks, texts(not_ip_blocks))),
            (
                "remote_ip_blocks",
                some(remote_ip_blocks, texts(remote_ip_blocks)),
            ),
            (
                "not_remote_ip_blocks",
                some(not_remote_ip_blocks, texts(not_remote_ip_blocks)),
            ),
        ],
    )
}

/// An empty list is one that was left out.
fn some<T>(values: &[T], shown: Option<String>) -> Option<String> {
    shown.filter(|_| !values.is_empty())
}
