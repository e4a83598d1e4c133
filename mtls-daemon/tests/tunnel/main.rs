//! The tunnel against itself, against other HTTP/2 endpoints, and against
//! hostile ones. Everything runs over real sockets on loopback.

mod pair;
mod support;
