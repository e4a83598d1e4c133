//! The hooks of a cgroup, in the order in which a connection meets them.
#![no_std]
#![no_main]

mod cgroup_skb;
mod connect;
mod getname;
mod prober;
mod sock_create;
mod sock_ops;

mtls_ebpf::object!();
