//! What is measured, in families that are run one after the other.

mod apps;
mod counts;
mod distance;
mod first;
mod hooks;
mod isolation;
mod loads;
mod memory;
mod sizes;

use mtls_tests::Result;

use crate::bench::Bench;

pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) run: fn(&mut Bench) -> Result,
}

pub(crate) const ALL: &[Family] = &[
    Family {
        name: "bulk",
        about: "bytes one way, as fast as they go, and their cost",
        run: loads::bulk,
    },
    Family {
        name: "requests",
        about: "64 bytes each way, over and over on the same connections",
        run: loads::requests,
    },
    Family {
        name: "connections",
        about: "a new connection for 64 bytes each way",
        run: loads::connections,
    },
    Family {
        name: "first",
        about: "the first connection ever between two pods, and a handshake alone",
        run: first::run,
    },
    Family {
        name: "calls",
        about: "system calls of both proxies",
        run: counts::run,
    },
    Family {
        name: "idle",
        about: "memory of connections that do nothing; handshakes of 10,000 connections",
        run: memory::idle_connections,
    },
    Family {
        name: "rest",
        about: "memory of proxies that do nothing",
        run: memory::at_rest,
    },
    Family {
        name: "hooks",
        about: "the kernel's programs alone, everything excluded",
        run: hooks::run,
    },
    Family {
        name: "pods",
        about: "ours with 50 and 250 workloads a node",
        run: sizes::workloads,
    },
    Family {
        name: "services",
        about: "ours with 10,000 services",
        run: sizes::services,
    },
    Family {
        name: "held",
        about: "ours beside 10,000 idle connections",
        run: sizes::idle,
    },
    Family {
        name: "distance",
        about: "1 and 10 ms apart, and with one packet in a thousand lost",
        run: distance::run,
    },
    Family {
        name: "isolation",
        about: "what others do to the p99 of a request",
        run: isolation::run,
    },
    Family {
        name: "apps",
        about: "iperf3, redis-benchmark, wrk, pgbench",
        run: apps::run,
    },
];
