//! What each measure is called, in the order in which it is shown. Measures
//! that are not here are shown on the terminal alone.

pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) rows: &'static [Row],
}

#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) measure: &'static str,
    pub(super) title: &'static str,
    pub(super) better: Better,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Better {
    More,
    Less,
}

const fn more(measure: &'static str, title: &'static str) -> Row {
    Row {
        measure,
        title,
        better: Better::More,
    }
}

const fn less(measure: &'static str, title: &'static str) -> Row {
    Row {
        measure,
        title,
        better: Better::Less,
    }
}

pub(super) const BULK_1: Row = more("bulk_1", "bulk, 1 connection");
pub(super) const BULK_8: Row = more("bulk_8", "bulk, 8 connections");
pub(super) const RR_1: Row = less("rr_1_p50_us", "request and answer, 1 connection, p50");
pub(super) const RR_64: Row = more("rr_64_per_s", "requests a second, 64 connections");
pub(super) const CRR_1: Row = less("crr_1_p50_us", "connect, request, close, 1 at a time, p50");
pub(super) const CRR_64: Row = more("crr_64_per_s", "connections a second, 64 at a time");
pub(super) const CPU_GIB: Row = less("cpu_s_per_gib", "processor time a GiB, both proxies");
pub(super) const CPU_REQUEST: Row = less(
    "cpu_us_per_request",
    "processor time a request, 64 connections, both proxies",
);
pub(super) const IDLE: Row = less(
    "idle_kib_per_connection",
    "memory an idle connection, the larger of both sides",
);
pub(super) const RSS: Row = less("idle_rss_mib", "resident memory, idle, 10 workloads");

/// Those of the chart and of the short table.
pub(super) const FIRST: [Row; 10] = [
    BULK_1,
    BULK_8,
    RR_1,
    RR_64,
    CRR_1,
    CRR_64,
    CPU_GIB,
    CPU_REQUEST,
    IDLE,
    RSS,
];

pub(super) const SECTIONS: &[Section] = &[
    Section {
        title: "Bulk",
        rows: &[
            BULK_1,
            more("bulk_1_back", "the same from server to client"),
            BULK_8,
            more("bulk_8_back", "the same from server to client"),
            CPU_GIB,
            less("cpu_user_s_per_gib", "of it user"),
            less("cpu_system_s_per_gib", "of it system"),
        ],
    },
    Section {
        title: "Request and answer, 64 bytes each",
        rows: &[
            RR_1,
            less("rr_1_p99_us", "p99"),
            less("rr_1_p999_us", "p99.9"),
            RR_64,
            less("rr_64_p50_us", "p50"),
            less("rr_64_p99_us", "p99"),
            less("rr_64_p999_us", "p99.9"),
            CPU_REQUEST,
            less("cpu_user_us_per_request", "of it user"),
            less("cpu_system_us_per_request", "of it system"),
            less(
                "syscalls_per_request",
                "system calls a request, 64 connections, both proxies",
            ),
        ],
    },
    Section {
        title: "Connect, request, close",
        rows: &[
            CRR_1,
            less("crr_1_p99_us", "p99"),
            less("crr_1_p999_us", "p99.9"),
            CRR_64,
            less("crr_64_p50_us", "p50"),
            less("crr_64_p99_us", "p99"),
            less("crr_64_p999_us", "p99.9"),
            less(
                "cpu_us_per_connection",
                "processor time a connection, 64 at a time, both proxies",
            ),
            less("cpu_user_us_per_connection", "of it user"),
            less("cpu_system_us_per_connection", "of it system"),
            less(
                "syscalls_per_connection",
                "system calls a connection, 64 at a time, both proxies",
            ),
        ],
    },
    Section {
        title: "First connections",
        rows: &[
            less(
                "first_connection_p50_us",
                "the first connection ever between two pods, p50",
            ),
            less("next_connection_p50_us", "the next one, p50"),
            less(
                "first_at_port_p50_us",
                "the first one to another port, over that tunnel, p50",
            ),
            less(
                "first_connection_early_p50_us",
                "the first ever with connect = \"early\", p50",
            ),
            less("next_connection_early_p50_us", "the next one, p50"),
            less(
                "first_at_port_early_p50_us",
                "the first one to another port, p50",
            ),
            less(
                "handshake_p50_us",
                "a TLS 1.3 handshake alone, both sides verified, p50",
            ),
            less(
                "handshakes_10k",
                "handshakes for 10,000 connections, 64 at a time, one pair",
            ),
        ],
    },
    Section {
        title: "Memory",
        rows: &[
            IDLE,
            RSS,
            less("rss_250_mib", "resident memory, idle, 250 workloads"),
        ],
    },
    Section {
        title: "The kernel's programs alone",
        rows: &[
            less(
                "hooks_us_per_connection",
                "attached, everything excluded, a connection",
            ),
            less(
                "hooks_ns_per_packet",
                "attached, everything excluded, a packet and program",
            ),
            less(
                "neighbour_us_per_connection",
                "attached, between pods that nobody enrols, a connection",
            ),
            less(
                "neighbour_ns_per_packet",
                "attached, between pods that nobody enrols, a packet and program",
            ),
            less(
                "veth_gate_ns_per_frame",
                "the gate at the veth, everything excluded, a frame",
            ),
        ],
    },
    Section {
        title: "Over a distance",
        rows: &[
            more("bulk_1_1ms", "bulk, 1 connection, 1 ms there and back"),
            more("bulk_8_1ms", "bulk, 8 connections"),
            more("rr_64_1ms_per_s", "requests a second, 64 connections"),
            more("bulk_1_10ms", "bulk, 1 connection, 10 ms there and back"),
            more("bulk_8_10ms", "bulk, 8 connections"),
            more("rr_64_10ms_per_s", "requests a second, 64 connections"),
            more(
                "bulk_1_loss",
                "bulk, 1 connection, 1 ms, one packet in 1,000 lost",
            ),
            more("bulk_8_loss", "bulk, 8 connections"),
            more("rr_64_loss_per_s", "requests a second, 64 connections"),
        ],
    },
    Section {
        title: "Beside others",
        rows: &[
            less("alone_p99_us", "request and answer, 1 connection, p99"),
            less("beside_bulk_p99_us", "beside a bulk flow of the same pods"),
            less("beside_bulk_p99_ratio", "of alone"),
            less(
                "beside_connections_p99_us",
                "beside a workload that opens connections as fast as it can",
            ),
            less("beside_connections_p99_ratio", "of alone"),
            less(
                "beside_strangers_p99_us",
                "beside 100 handshakes a second from strangers",
            ),
            less("beside_strangers_p99_ratio", "of alone"),
            more("bulk_8_fairness", "slowest of 8 bulk flows, of the fastest"),
            more("tunnel_fairness", "the same, all in one tunnel"),
        ],
    },
    Section {
        title: "Real programs",
        rows: &[
            more("iperf3", "iperf3, 1 stream"),
            more("redis_get_per_s", "redis-benchmark, GET, 50 connections"),
            more("wrk_per_s", "wrk and nginx, 1 KiB, 64 connections"),
            more("wrk_close_per_s", "the same, a connection a request"),
            more("pgbench_select_per_s", "pgbench, SELECT, 8 connections"),
        ],
    },
];

/// A large node, as the endings of its measures' names.
pub(super) const SIZES: [(&str, &str); 4] = [
    ("_50_pods", "50 workloads on either node"),
    ("_250_pods", "250 workloads on either node"),
    ("_10k_services", "10,000 services in the directory"),
    ("_10k_idle", "10,000 idle connections beside it"),
];

/// What is compared there.
pub(super) const COMPARED: [&str; 3] = ["bulk_1", "rr_64_per_s", "crr_64_per_s"];
