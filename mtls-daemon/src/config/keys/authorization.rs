//! The keys of `[policy]`, `[[peer-authentication]]` and `[[authorization-policy]]`.

use super::Applies::Live;
use super::Fallback::{Is, Required, Unset};
use super::Shape::{
    Bool, Choice, List, Name, Network, Path, Pattern, Port, PortWithMode, WorkloadPattern,
};
use super::{Key, MODES, key};

#[rustfmt::skip]
pub(super) const POLICY: [Key; 1] = [
    key("directory", Path, Unset("all stands in this file"), Live, r#""/etc/mtls-daemon/policy.d""#,
        "Folder of files that end in `.toml`, each with `version = 1` and `[[authorization-policy]]` tables, besides those of this file. Read again when one changes; with a mistake in any, nothing changes."),
];

#[rustfmt::skip]
pub(super) const PEER_AUTHENTICATION: [Key; 5] = [
    key("name", Name, Required, Live, r#""shop""#,
        "Its name in messages; unique in the file."),
    key("workloads", List(&WorkloadPattern), Unset("see `namespaces`"), Live, r#"["db"]"#,
        "The workloads that it speaks of: names (a pod's is NAMESPACE/POD), or SPIFFE IDs such as `spiffe://example.org/ns/shop/*`. Of a pod, which has its mode from labels, it decides the ports alone."),
    key("namespaces", List(&Pattern), Unset("see `workloads`"), Live, r#"["shop"]"#,
        "Instead of `workloads`: those whose SPIFFE ID has the path `/ns/NAMESPACE/sa/ACCOUNT` with one of these."),
    key("mode", MODES, Unset("it speaks of `port_modes`"), Live, r#""permissive""#,
        "As `node.mode`, for these workloads."),
    key("port_modes", List(&PortWithMode), Is("[]"), Live, r#"[{ port = 8080, mode = "permissive" }]"#,
        "As `workload.port_modes`, for `workloads`."),
];

#[rustfmt::skip]
pub(super) const AUTHORIZATION_POLICY: [Key; 4] = [
    key("name", Name, Required, Live, r#""db-callers""#,
        "Its name in the access log, in metrics and in `policy test`; unique on the node, whatever file it stands in."),
    key("action", Choice(&["ALLOW", "DENY"]), Is(r#""ALLOW""#), Live, r#""ALLOW""#,
        "What becomes of a connection that one of its rules matches. DENY goes before ALLOW; where an ALLOW policy selects a workload, a connection that none matches is refused."),
    key("dry_run", Bool, Is("false"), Live, "false",
        "`true`: it decides nothing, and what would come of it is counted."),
    key("workloads", List(&WorkloadPattern), Unset("every workload of the node"), Live, r#"["db"]"#,
        "The workloads that it protects: names (a pod's is NAMESPACE/POD), or SPIFFE IDs such as `spiffe://example.org/ns/shop/*`."),
];

#[rustfmt::skip]
pub(super) const FROM: [Key; 8] = [
    key("principals", List(&Pattern), Unset("whoever"), Live, r#"["spiffe://example.org/web"]"#,
        "SPIFFE IDs of callers, with or without `spiffe://`; `*` at one end, or alone for whoever has proved one."),
    key("not_principals", List(&Pattern), Unset("none"), Live, r#"["example.org/ns/test/*"]"#,
        "SPIFFE IDs that do not match; a caller without one does."),
    key("namespaces", List(&Pattern), Unset("whichever"), Live, r#"["shop"]"#,
        "Namespaces of callers: NAMESPACE of a SPIFFE ID whose path is `/ns/NAMESPACE/sa/ACCOUNT`."),
    key("not_namespaces", List(&Pattern), Unset("none"), Live, r#"["test"]"#,
        "Namespaces that do not match; a caller without one does."),
    key("ip_blocks", List(&Network), Unset("wherever"), Live, r#"["10.0.1.0/24"]"#,
        "Networks that the packets come from: the address of the caller, or of the gateway before it."),
    key("not_ip_blocks", List(&Network), Unset("none"), Live, r#"["10.0.9.0/24"]"#,
        "Networks that do not match."),
    key("remote_ip_blocks", List(&Network), Unset("wherever"), Live, r#"["192.0.2.0/24"]"#,
        "Networks of the first client, as a configured gateway reports it. There are no gateways yet: the same as `ip_blocks`."),
    key("not_remote_ip_blocks", List(&Network), Unset("none"), Live, r#"["192.0.2.0/24"]"#,
        "Networks of the first client that do not match."),
];

#[rustfmt::skip]
pub(super) const TO: [Key; 2] = [
    key("ports", List(&Port), Unset("whichever"), Live, "[5432]",
        "Ports of the workload."),
    key("not_ports", List(&Port), Unset("none"), Live, "[9187]",
        "Ports that do not match."),
];
