//! The one list of metrics. docs/metrics.md is made from it, and a test holds
//! that nothing else is ever exported.

/// What a family's samples mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric with its labels.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

macro_rules! families {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $constant: Family = Family {
            name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help,
        };)*

        /// Every metric, in the order of the documentation.
        pub const ALL: &[Family] = &[$($constant,)*];
    };
}

families! {
    HANDSHAKES = Counter "mtls_handshakes_total" ["direction", "result", "resumed", "version", "group"]
        "TLS handshakes, finished and failed; resumed, version and group are empty on failed ones.";
    HANDSHAKE_FAILURES = Counter "mtls_handshake_failures_total" ["direction", "reason"]
        "Failed TLS handshakes by reason.";
    HANDSHAKE_DURATION = Histogram "mtls_handshake_duration_seconds" ["direction", "result", "resumed", "version", "group"]
        "Duration of TLS handshakes, from the first byte to the verified peer, or to the failure.";
    HANDSHAKES_AVOIDED = Counter "mtls_handshakes_avoided_total" []
        "Connections that rode a tunnel that was there already or being dialled: handshakes that pooling saved.";
    POOL_ACQUIRE = Counter "mtls_pool_acquire_total" ["result"]
        "Requests for a tunnel: found (hit), dialled (miss), or shared the dial of another flow (wait).";
    POOL_CONNECTIONS = Gauge "mtls_pool_connections" ["state"]
        "Outbound tunnels by state.";
    CONNECTIONS = Counter "mtls_connections_total" ["direction", "result"]
        "Connections of enrolled workloads that reached the daemon.";
    HELD_CONNECTS = Counter "mtls_held_connects_total" ["result"]
        "Calls of connect() that waited for the far application (`connect = \"truthful\"`), by what came of them.";
    CONNECTIONS_REFUSED = Counter "mtls_connections_refused_total" ["direction", "reason"]
        "Connections that the daemon refused, by reason.";
    CONNECTIONS_ENDED = Counter "mtls_connections_ended_total" ["direction", "reason"]
        "Established connections that ended, by reason.";
    CONNECTIONS_OPEN = Gauge "mtls_connections_open" ["direction"]
        "Established connections that are open now.";
    CONNECTION_ESTABLISH = Histogram "mtls_connection_establish_seconds" ["direction"]
        "Time from accepting a connection until bytes may flow.";
    BYTES = Counter "mtls_connection_bytes_total" ["direction", "towards"]
        "Application bytes carried, by the connection's direction and by the way they went.";
    POLICY_DECISIONS = Counter "mtls_policy_decisions_total" ["rule", "decision"]
        "Inbound connections by the policy's rule that decided: `NAME[n]` in the order of the file, `no_policy` where no ALLOW policy selects the workload, `no_rule` where none of their rules matches. `dry_run_allowed` and `dry_run_denied` are what dry runs would make of it.";
    CLUSTER_POLICIES = Gauge "mtls_cluster_policies" ["kind", "standing"]
        "Objects of Istio's API that select a pod of this node, by how they are taken: `whole`, as they are written; `in_part`, an AuthorizationPolicy stricter, a PeerAuthentication otherwise; `passed_over`, for others than the daemon, or behind older ones; `unreadable`, everything to their pods is denied, or in clear.";
    PLAINTEXT = Counter "mtls_plaintext_connections_total" ["direction", "reason"]
        "Connections in clear, as configured: let pass by the kernel programs, or carried by the daemon.";
    CALLERS_IN_CLEAR = Counter "mtls_plaintext_callers_total" ["caller", "result"]
        "Connections in clear to workloads of this node, by who is known at the address they came from. Of those that a strict workload refuses at most ten a second are counted for each.";
    STRICT_LOSSES = Gauge "mtls_strict_readiness_losses" ["workload"]
        "Callers and servers, each by port, that a permissive workload was seen talking to in clear within a day, and would lose by turning strict: `mtls-daemon readiness-for-strict` names them.";
    BYPASS_BLOCKED = Counter "mtls_bypass_blocked_total" ["hook"]
        "Packets and calls that tried to get past the daemon and were stopped in the kernel.";
    HOOK_EVENTS = Counter "mtls_hook_events_total" ["hook", "outcome"]
        "Decisions of the kernel programs by hook and outcome.";
    UNKNOWN_WORKLOADS = Counter "mtls_unknown_workloads_total" []
        "Reports by the kernel of a network namespace that nobody classified.";
    EARLIER_CONNECTIONS = Counter "mtls_earlier_connections_total" ["result"]
        "Connections in clear from before a workload was enrolled: ended then (ok), or left because the kernel would not end them (error).";
    BPF_ATTACHED = Gauge "mtls_bpf_programs_attached" ["hook"]
        "1 while the hook's programs are attached where they must be, 0 when one is missing.";
    PINS_RESTORED = Counter "mtls_pins_restored_total" []
        "Pins of programs and maps that were removed beside the running daemon, and that it put back.";
    VETH_GATES = Gauge "mtls_veth_gates" ["state"]
        "Enrolled workloads by the gate at their veth: armed, off, or why there is none.";
    BPF_MAP_ENTRIES = Gauge "mtls_bpf_map_entries" ["map"]
        "Entries in a kernel map.";
    BPF_MAP_CAPACITY = Gauge "mtls_bpf_map_capacity" ["map"]
        "Entries that fit in a kernel map.";
    LIMIT_REACHED = Counter "mtls_limit_reached_total" ["limit"]
        "Connections, tunnels or bytes turned away because a limit was reached.";
    WORKLOADS = Gauge "mtls_workloads" ["state"]
        "Enrolled workloads of this node by state.";
    CERTIFICATE_EXPIRY = Gauge "mtls_certificate_expiry_timestamp_seconds" ["workload", "identity"]
        "When the certificate of a workload of this node ends, in Unix time; 0 while it has none.";
    CERTIFICATE_RENEWALS = Counter "mtls_certificate_renewals_total" ["result"]
        "Attempts to obtain a certificate for a workload of this node.";
    TRUST_BUNDLE_ROOTS = Gauge "mtls_trust_bundle_roots" ["trust_domain"]
        "Root certificates in the trust bundle of a configured trust domain.";
    TRUST_BUNDLE_EXPIRY = Gauge "mtls_trust_bundle_expiry_timestamp_seconds" ["trust_domain"]
        "When the first root in a trust bundle ends, in Unix time.";
    IDENTITY_SOURCE_HEALTHY = Gauge "mtls_identity_source_healthy" ["source"]
        "1, or 0 while a workload's certificate from the source is not renewed.";
    CRL_NEXT_UPDATE = Gauge "mtls_crl_next_update_timestamp_seconds" ["trust_domain", "issuer"]
        "When the successor of a revocation list is due, in Unix time; past it the list is stale.";
    REVOCATION_UNKNOWN = Counter "mtls_revocation_unknown_total" ["direction"]
        "Peers taken although no revocation list told their status (policy soft).";
    TUNNEL_PROOFS = Counter "mtls_tunnel_proofs_total" ["direction", "result"]
        "Renewed certificates that peers proved on open tunnels.";
    TUNNEL_FAULTS = Counter "mtls_tunnel_faults_total" ["direction", "fault"]
        "Tunnels that were ended for what their peer did: it flooded us, broke the protocol, or fell silent.";
    CONFIG_RELOADS = Counter "mtls_config_reloads_total" ["result"]
        "Reloads of the configuration; after an error the old one stays in force.";
    CONFIG_LOADED = Gauge "mtls_config_loaded_timestamp_seconds" []
        "When the configuration in force was loaded, in Unix time.";
    READY = Gauge "mtls_ready" []
        "What /readyz answers: 1 or 0.";
    HEARTBEAT_AGE = Gauge "mtls_heartbeat_age_seconds" ["thread"]
        "Time since a thread last showed that it is alive.";
    LOG_LINES_DROPPED = Counter "mtls_log_lines_dropped_total" []
        "Lines of the log that were dropped because whoever reads it was too slow, or that could not be written.";
    BUILD_INFO = Gauge "mtls_build_info" ["version"]
        "1, with the daemon's version.";
    PROCESS_OPEN_FDS = Gauge "mtls_process_open_fds" []
        "File descriptors in use.";
    PROCESS_MAX_FDS = Gauge "mtls_process_max_fds" []
        "File descriptors that the process may use.";
    PROCESS_RESIDENT = Gauge "mtls_process_resident_memory_bytes" []
        "Resident memory of the daemon.";
    PROCESS_CPU = Counter "mtls_process_cpu_seconds_total" []
        "User and system time of the daemon.";
    PROCESS_THREADS = Gauge "mtls_process_threads" []
        "Threads of the daemon.";
    PROCESS_START = Gauge "mtls_process_start_time_seconds" []
        "When the daemon started, in Unix time.";
}

/// docs/metrics.md: what /metrics answers.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Metrics\n\n\
         `http://ADDRESS/metrics`, where ADDRESS is `metrics.listen`, in Prometheus' text format. Labels have a fixed set\n\
         of values, or name things of this node's own configuration; nothing that a peer sends ever becomes a label.\n\
         The values of `reason` are in [reasons.md](reasons.md).\n\n\
         | metric | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    for family in ALL {
        let labels: Vec<String> = family.labels.iter().map(|l| format!("`{l}`")).collect();
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        out.push_str(&format!(
            "| `{}` | {kind} | {} | {} |\n",
            family.name,
            labels.join(" "),
            family.help
        ));
    }
    out
}
