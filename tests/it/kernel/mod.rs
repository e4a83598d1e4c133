//! The hooks alone: real programs in the kernel, real applications in pods, and
//! this process in the daemon's place.

mod captures;
mod stage;
