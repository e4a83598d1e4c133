//! What is attacked and what breaks, which test does it, and what comes of it:
//! the tables of docs/security.md. `UPDATE_DOCS=1 cargo test -p mtls-tests
//! generated` writes them; `cargo xtask tidy` refuses a test that is not there.

mod faults;

use faults::FAULTS;

/// One line of a table: what, its tests as `file.rs#function`, the result.
type Row = (&'static str, &'static [&'static str], &'static str);

const fn row(what: &'static str, tests: &'static [&'static str], result: &'static str) -> Row {
    (what, tests, result)
}

/// Where most of them are.
const STORIES: &str = "tests/it/";

const CLAIMS: &[Row] = &[
    row(
        "A byte of an enrolled workload's mesh traffic leaves its node inside TLS 1.3 with both sides verified, or not at all.",
        &[
            "listeners.rs#listeners",
            "ways_to_connect.rs#ways_to_connect",
            "bulk.rs#bulk_v4",
            "daemon_killed.rs#clients_daemon_killed",
        ],
        "Every story with traffic ends with the capture of the wire, of which every TCP byte is judged.",
    ),
    row(
        "Enforcement does not need the daemon to live.",
        &[
            "enforcement_outlives_the_daemon.rs#enforcement_outlives_the_daemon",
            "kernel/restarts.rs#kernel_is_adopted_without_a_gap",
        ],
        "Programs and maps are pinned; without a daemon connections are refused.",
    ),
    row(
        "Only `detach`, being uninstalled, or removing the pins where no daemon runs, ends it.",
        &[
            "enforcement_outlives_the_daemon.rs#detach_removes_enforcement",
            "enforcement_outlives_the_daemon.rs#removing_the_pins_removes_enforcement",
            "pins_removed.rs#pins_removed_beside_the_daemon",
            "cluster_uninstalled.rs#cluster_uninstalled",
        ],
        "For root on the host, and for whoever may change the DaemonSet; a running daemon puts its pins back.",
    ),
    row(
        "A peer has proved exactly the identity that is expected, where the directory knows it.",
        &[
            "wrong_identity.rs#server_with_another_identity",
            "wrong_identity.rs#client_with_another_identity",
            "wrong_root.rs#wrong_root",
        ],
        "Refused with `bad_san`, `identity_not_at_address`, `unknown_issuer`.",
    ),
    row(
        "Who may not call is refused, also in the middle of a connection.",
        &[
            "policy.rs#policy",
            "policy_agrees.rs#policy_test_says_what_happens",
            "kubernetes_policies.rs#kubernetes_policies",
        ],
        "Refused or cut with `not_authorised` within a second of the change.",
    ),
    row(
        "A permissive workload takes clear text only past its policies, a caller in clear has proved nothing, and strict ends what is open.",
        &[
            "permissive.rs#permissive",
            "permissive.rs#ports_have_modes_of_their_own",
            "kubernetes_modes.rs#kubernetes_modes",
        ],
        "Refused with `not_authorised`, reset with `plaintext_refused`; `mtls-daemon readiness-for-strict` names the callers beforehand.",
    ),
    row(
        "A running system goes from off to strict without losing a connection between its workloads.",
        &["strict_under_load.rs#strict_under_load"],
        "None fails, and nothing is in clear once both are strict; only what was open from before is reset.",
    ),
    row(
        "What was proved ends when it ends, or when it is withdrawn.",
        &[
            "certificates.rs#certificates_are_renewed",
            "revocation.rs#revoked_peer",
            "root_rotation.rs#root_rotation",
        ],
        "Tunnels are judged again; a connection outlives a certificate only by a proof of the next.",
    ),
    row(
        "No flow rides a tunnel of somebody else.",
        &[
            "mtls-daemon/tests/pool/main.rs#no_connection_rides_a_tunnel_of_another_identity_or_address",
        ],
        "The pool's key holds everything that must be equal.",
    ),
    row(
        "A cut never looks like an end.",
        &[
            "daemon_killed.rs#servers_daemon_killed",
            "reset.rs#reset",
            "drain.rs#drain_resets_at_the_deadline",
        ],
        "ECONNRESET, never a clean end of file.",
    ),
    row(
        "Keys stay in the daemon's memory.",
        &["secrets.rs#secrets"],
        "None in logs, metrics, answers, core dumps.",
    ),
    row(
        "Who reads what strangers send can neither enter a network namespace nor look into a process.",
        &["own_rights.rs#own_rights"],
        "Each thread's capabilities are looked at; a helper has the two that it takes.",
    ),
    row(
        "Nor can it start a program, make a namespace or a mount, or change the kernel.",
        &[
            "own_rights.rs#own_rights",
            "mtls-daemon/tests/refused_calls.rs#the_daemon",
            "mtls-daemon/tests/refused_calls.rs#the_helper",
        ],
        "EPERM from a filter on every thread, of the helper, too.",
    ),
];

/// In the order of the field's own list of cases.
const ATTACKS: &[Row] = &[
    row(
        "Plaintext to a strict workload, from a pod, the host, a port of the node",
        &[
            "outsiders.rs#outsiders",
            "host_ports.rs#host_ports",
            "cluster_beside_kube_proxy.rs#cluster_beside_kube_proxy",
            "kernel/inbound.rs#kernel_refuses_plain_text_from_outside",
            "cluster.rs#cluster",
        ],
        "RST, counted by source",
    ),
    row(
        "A workload starts before the daemon knows it",
        &[
            "unknown_namespace.rs#unknown_namespace_is_refused",
            "boots_armed.rs#boots_armed",
            "cluster_reboot.rs#cluster_reboot",
            "cluster_reboot.rs#cluster_reboot_behind_the_plugin",
            "kernel/refuses.rs#kernel_refuses_the_unknown_and_reports_it",
        ],
        "refused with `unknown_workload`, then enrolled",
    ),
    row(
        "SIGKILL of a daemon in the middle of traffic",
        &[
            "daemon_killed.rs#clients_daemon_killed",
            "daemon_killed.rs#servers_daemon_killed",
            "daemon_restarted_under_load.rs#daemon_restarted_under_load",
        ],
        "connections are reset, nothing in clear",
    ),
    row(
        "A pod that was told to end and goes on",
        &[
            "terminating.rs#terminating_pod",
            "nameless.rs#nameless_namespace_stays_refused",
        ],
        "served in its grace period, then cut and refused",
    ),
    row(
        "A daemon presents an identity that is not on its node",
        &["wrong_identity.rs#client_with_another_identity"],
        "`identity_not_at_address`",
    ),
    row(
        "An address is given to another pod",
        &[
            "workload_recreated.rs#workload_recreated",
            "cluster_changes.rs#cluster_changes",
            "kernel/restarts.rs#kernel_forgets_the_dead",
        ],
        "the old one's connections are cut, no tunnel is inherited",
    ),
    row(
        "A namespace, a cgroup or a process number comes again",
        &[
            "cgroup_remade.rs#cgroup_remade",
            "kernel/restarts.rs#kernel_follows_a_cgroup_that_is_made_again",
            "nameless.rs#enrolled_by_hand_stays_refused_after_a_crash",
        ],
        "known by cookies and inodes that do not come again",
    ),
    row(
        "A flow in another workload's tunnel",
        &[
            "mtls-daemon/tests/pool/main.rs#no_connection_rides_a_tunnel_of_another_identity_or_address",
            "mtls-daemon/tests/pool/main.rs#another_expected_identity_is_another_tunnel_and_is_refused",
        ],
        "another key, another tunnel",
    ),
    row(
        "A session ticket of somebody else, or past its time",
        &[
            "mtls-daemon/tests/tls/resumption.rs#a_ticket_of_one_workload_is_nothing_to_its_neighbour",
            "mtls-daemon/tests/tls/resumption.rs#a_revoked_peer_does_not_come_back_with_a_ticket",
            "mtls-daemon/tests/tls/resumption.rs#a_root_that_was_taken_out_ends_the_sessions_under_it",
        ],
        "a full handshake, or refused",
    ),
    row(
        "SPIFFE IDs that look alike",
        &[
            "mtls-daemon/tests/tls/certificates.rs#names_that_are_no_spiffe_id",
            "mtls-daemon/tests/tls/certificates.rs#not_exactly_one_uri",
            "mtls-daemon/tests/tls/certificates.rs#trust_domains_are_compared_whole",
            "mtls-daemon/src/spiffe.rs#what_is_no_id",
        ],
        "`bad_san`, `trust_domain`",
    ),
    row(
        "Chains that break a constraint",
        &[
            "mtls-daemon/tests/tls/certificates.rs#path_lengths",
            "mtls-daemon/tests/tls/certificates.rs#extended_key_usage",
            "mtls-daemon/tests/tls/certificates.rs#name_constraints",
            "mtls-daemon/tests/tls/certificates.rs#a_removed_root",
        ],
        "`bad_chain`, `bad_eku`, `unknown_issuer`",
    ),
    row(
        "Loops, and calls to oneself",
        &["own_address.rs#own_address", "own_loopback.rs#own_loopback"],
        "a pod reaches itself, and the daemon's own connections are left alone",
    ),
    row(
        "Marks, priorities, devices and routes of the workload's own; a namespace that it makes",
        &["spoofing.rs#spoofed_marks_users_and_routes"],
        "a tunnel like everybody's, or refused",
    ),
    row(
        "Users that other meshes exempt, such as 1337",
        &["spoofing.rs#spoofed_marks_users_and_routes"],
        "a tunnel like everybody's",
    ),
    row(
        "Dialling the listener directly, forging an original destination",
        &[
            "capture_address.rs#capture_address",
            "permissive.rs#listeners_dialled_directly",
            "forged_packets.rs#forged_packets",
            "kernel/handoff.rs#kernel_knows_nothing_of_who_dials_the_capture_address",
        ],
        "reset with `no_original_dst`",
    ),
    row(
        "Filling the kernel's maps",
        &[
            "kernel/full_maps.rs#kernel_refuses_when_a_map_is_full",
            "kernel/handoff.rs#kernel_keeps_room_for_others",
        ],
        "refused; nothing that decides is ever evicted",
    ),
    row(
        "IPv4 in IPv6, IPv6 only, scoped addresses, both in one socket",
        &[
            "listeners.rs#listeners",
            "ways_to_connect.rs#ways_to_connect",
            "kernel/captures.rs#kernel_captures_every_kind_of_connect",
        ],
        "captured, each in its own words",
    ),
    row(
        "UDP, TCP fast open, MPTCP, io_uring, sockets older than the hooks, and other unusual ways",
        &[
            "ways_to_connect.rs#ways_to_connect",
            "udp.rs#udp_passes",
            "udp.rs#udp_is_refused",
            "kernel/inbound.rs#kernel_gates_hold_what_the_hooks_miss",
            "half_close.rs#half_close",
        ],
        "captured or stopped by the gates; UDP passes or is refused, as configured",
    ),
    row(
        "Dropping the tunnel so that clear text is used",
        &[
            "downgrade.rs#downgrade",
            "peer_unreachable.rs#peer_unreachable",
            "mtls-daemon/src/policy/outbound.rs#a_services_endpoints_of_both_kinds_are_not_mixed",
        ],
        "refused with `peer_unreachable`, never in clear: permissive workloads, too, use it only where the directory knows that there is no daemon",
    ),
    row(
        "Silence at each stage: TCP, TLS, HTTP/2, a header block, a stream",
        &[
            "hostile_peer.rs#peer_that_stops_at_every_stage",
            "mtls-daemon/tests/tls/protocol.rs#slow_peers",
        ],
        "`timeout`, or a tunnel fault `silent`",
    ),
    row(
        "More handshakes than there are places; a tenant that starves others",
        &[
            "crowded_door.rs#crowded_door",
            "mtls-daemon/src/turns.rs#whoever_has_the_most_gives_up_its_oldest",
            "held_connects.rs#held_connects",
            "slow_readers.rs#slow_readers",
        ],
        "who has the most gives up; the others are served",
    ),
    row(
        "Giant chains",
        &["mtls-daemon/tests/tls/certificates.rs#giant_chains"],
        "`bad_chain`, within a bounded buffer",
    ),
    row(
        "Running the daemon out of descriptors",
        &["descriptor_limit.rs#descriptor_limit"],
        "`no_descriptors`; what is open goes on",
    ),
    row(
        "HTTP/2: rapid reset, PING, SETTINGS and CONTINUATION floods, HPACK bombs, shut windows",
        &[
            "hostile_peer.rs#hostile_peer",
            "mtls-daemon/tests/tunnel/hostile.rs#floods_are_ended",
            "mtls-daemon/tests/tunnel/hostile.rs#header_blocks_without_end",
        ],
        "the tunnel ends with ENHANCE_YOUR_CALM, tunnel fault `flood`",
    ),
    row(
        "Clocks that differ",
        &[
            "mtls-daemon/tests/tls/certificates.rs#beyond_the_tolerated_skew",
            "mtls-daemon/tests/identity/renewal.rs#the_clock_steps",
        ],
        "`expired` or `not_yet_valid` beyond `identity.clock_skew`",
    ),
    row(
        "An issuer that is down until all its certificates have ended",
        &[
            "issuer_ended.rs#issuer_ended",
            "mtls-daemon/tests/identity/renewal.rs#an_authority_that_ends_refuses_and_its_successor_recovers",
        ],
        "`no_cert`, not ready, `mtls_identity_source_healthy` 0",
    ),
    row(
        "Revocation lists that are stale, cut short, of somebody else, or swapped",
        &[
            "revocation.rs#revoked_peer",
            "mtls-daemon/tests/identity/revocation.rs#an_issuer_without_a_current_list_of_its_own_is_refused",
            "mtls-daemon/tests/identity/revocation.rs#what_cannot_be_read_or_is_stale_does_not_count",
            "mtls-daemon/tests/identity/files.rs#a_mounted_secret_is_swapped",
        ],
        "`revocation_unknown`, or as `identity.crl.policy` says",
    ),
    row(
        "A policy is tightened, or a peer revoked, on an open connection",
        &[
            "policy.rs#policy",
            "kubernetes_policies.rs#kubernetes_policies",
            "revocation.rs#revoked_peer",
        ],
        "reset",
    ),
    row(
        "Using the exemption of probes: another program of the node, another port, the node's address with the answers coming back, the very ports of the last probe",
        &[
            "forged_probes.rs#forged_probes",
            "kernel/probes.rs#kernel_lets_the_nodes_prober_in",
            "mtls-common/tests/decisions/gate.rs#the_probers_connections_come_in_and_none_after_them",
        ],
        "known by the cgroup and the connection, not by an address: refused",
    ),
    row(
        "A bad configuration at a reload",
        &["configuration_reload.rs#configuration_reload"],
        "the old one stays, the mistake is told with its line",
    ),
    row(
        "The admin socket and the metrics from a pod; names that become labels",
        &[
            "admin.rs#admin_socket_from_a_pod",
            "admin.rs#label_cardinality",
        ],
        "403; nothing that a peer sends is a label",
    ),
    row(
        "Raw sockets",
        &["kernel/raw_sockets.rs#kernel_refuses_raw_tcp"],
        "EACCES, EPERM",
    ),
    row(
        "Frames of packet sockets, and sockets made in another cgroup",
        &[
            "veth_gate.rs#frames_of_a_packet_socket",
            "veth_gate.rs#sockets_of_another_cgroup",
            "veth_gate.rs#detach_takes_the_veth_gate_away",
            "mtls-common/tests/decisions/veth.rs#nothing_opens_or_carries_but_what_is_excluded",
        ],
        "stopped by the gate at the node's end of the veth (Linux 6.6)",
    ),
    row(
        "Packets written by hand on the workload's bridge, or routed: loopback's addresses, its own, captured ones",
        &[
            "forged_packets.rs#forged_packets",
            "forged_packets.rs#loopback_from_the_bridge",
        ],
        "stopped by the ingress gate, or reset with `no_original_dst`",
    ),
    row(
        "A listener that was made in another cgroup, and handed to the application",
        &["listener_of_another_cgroup.rs#listener_of_another_cgroup"],
        "shown its true client below `kernel.cgroup`; outside of it `dial_failed`, and no byte",
    ),
    row(
        "A listener where the daemon's port is, before the daemon or after it",
        &[
            "daemons_ports_taken.rs#daemons_ports_taken",
            "names.rs#names",
            "kernel/inbound.rs#kernel_refuses_plain_text_from_outside",
        ],
        "the daemon binds no port that a workload could take",
    ),
];

/// The text before the tables.
const HEAD: &str = include_str!("threats.txt");

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use super::*;

    /// The page, from the repository's root.
    const PAGE: &str = "docs/security.md";

    #[test]
    fn generated_table_of_attacks() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let expected = page();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(root.join(PAGE), &expected).unwrap();
        }
        let found = std::fs::read_to_string(root.join(PAGE)).unwrap_or_default();
        assert!(
            found == expected,
            "{PAGE} is behind tests/src/threats.rs: run UPDATE_DOCS=1 cargo test --workspace --lib generated"
        );
    }

    fn page() -> String {
        let mut page = HEAD.to_owned();
        for (marker, rows, heading) in [
            ("{claims}", CLAIMS, "claim | held by | how"),
            (
                "{attacks}",
                ATTACKS,
                "attack | test | what the attacker gets",
            ),
            ("{faults}", FAULTS, "fault | test | what happens"),
        ] {
            assert!(page.contains(marker), "{marker}");
            page = page.replace(marker, &table(rows, heading));
        }
        page
    }

    fn table(rows: &[Row], heading: &str) -> String {
        let mut table = format!("| {heading} |\n|---|---|---|");
        for (what, tests, result) in rows {
            let tests: Vec<_> = tests.iter().map(|test| link(test)).collect();
            let _ = write!(table, "\n| {} | {} | {} |", what, tests.join(" "), result);
        }
        table
    }

    /// In the form that `tidy` follows.
    fn link(test: &str) -> String {
        let (file, function) = test.split_once('#').unwrap();
        let folder = if file.starts_with("mtls-") {
            ""
        } else {
            STORIES
        };
        format!("[`{function}()`](../{folder}{file})")
    }
}
