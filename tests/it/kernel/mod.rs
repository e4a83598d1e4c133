//! The hooks alone: real programs in the kernel, real applications in pods, and
//! this process in the daemon's place.

mod stage;

mod captures;
mod full_maps;
mod handoff;
mod inbound;
mod lacks;
mod names;
mod passes;
mod probes;
mod raw_sockets;
mod refuses;
mod restarts;
