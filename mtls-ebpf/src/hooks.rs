//! The hooks of a cgroup, in the order in which a connection meets them, and
//! the gate behind them all.
#![no_std]
#![no_main]

mod cgroup_skb;
mod connect;
mod getname;
mod prober;
mod sock_create;
mod sock_ops;
mod veth;

mtls_ebpf::object!();
