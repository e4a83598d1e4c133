//! The head of a CONNECT request.

use std::net::SocketAddr;

/// The head of a CONNECT request, as we send it and as a peer sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Where the peer's daemon is to deliver: the destination application.
    pub authority: SocketAddr,
    /// The client application's address and port, as the peer's daemon claims
    /// it. Only the port can be believed, and the address of a gateway.
    pub forwarded: Option<SocketAddr>,
    /// The W3C trace context, which carries the connection's id.
    pub traceparent: Option<String>,
    /// Facts about the source workload, for the log; never for decisions.
    pub baggage: Option<String>,
}
