//! A tunnel between two daemons: a purpose-built HTTP/2 endpoint that knows
//! CONNECT only, in both roles, and the loop that moves its bytes.
//!
//! Opening a stream is ordinary async code. Then the application's socket
//! joins its tunnel's loop: there is no task, channel or buffer for a flow,
//! and everything that a turn of the loop has to say leaves in one write.

mod control;
mod endpoint;
mod event_loop;
mod flow;
mod frame;
mod handle;
mod head;
mod hpack;
mod huffman;
mod life;
mod limits;
mod out;
mod outcome;
mod poller;
mod receive;
mod records;
mod request;
mod serve;
mod settings;
mod slot;
mod windows;

pub use frame::code;
pub use handle::{Carry, Incoming, Loop, Opening, Progress, Request, Stream, Tunnel};
pub use outcome::{Carried, CarryEnd, ConnectError, Cut, TunnelEnd, Violation};
pub use request::ConnectRequest;
pub use settings::{Settings, Stats};
