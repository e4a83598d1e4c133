//! How a flow, a request and a tunnel can end.

use std::fmt;
use std::io;

use crate::reason::Reason;

/// A flow that was carried, and how it ended.
#[derive(Debug)]
pub struct Carried {
    /// Bytes that the application sent and that left in the tunnel.
    pub to_peer: u64,
    /// Bytes of the peer that the application's socket has taken.
    pub from_peer: u64,
    /// Why it ended.
    pub end: CarryEnd,
}

/// Why a flow ended. Everything but `Done` reached the application as a reset.
#[derive(Debug)]
pub enum CarryEnd {
    /// Both halves ended in order and everything was delivered.
    Done,
    /// The application reset its connection, or vanished.
    ResetByApp,
    /// The peer reset the stream, with this HTTP/2 error code.
    ResetByPeer(u32),
    /// The tunnel under the flow ended.
    TunnelLost(TunnelEnd),
    /// This daemon cut it.
    Cut(Cut),
    /// The application's socket could not be served here.
    Local(io::Error),
}

impl CarryEnd {
    /// The published word for it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Done => Reason::Done,
            Self::ResetByApp => Reason::ResetByLocalApp,
            Self::ResetByPeer(_) => Reason::ResetByPeer,
            Self::TunnelLost(TunnelEnd::Cut(cut)) | Self::Cut(cut) => cut.0,
            Self::TunnelLost(_) => Reason::TunnelLost,
            Self::Local(_) => Reason::Internal,
        }
    }
}

/// Why this daemon cut a living flow or tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut(pub Reason);

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a CONNECT did not become a stream.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// The peer answered with another status than 2xx.
    #[error("the peer's daemon answered {status}")]
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// The peer reset the stream before it answered.
    #[error("the peer's daemon reset the request with HTTP/2 error {}", Code(*.0))]
    Reset(u32),
    /// The tunnel cannot take one more stream now: another one may.
    #[error("the tunnel has no room for one more stream")]
    NoRoom,
    /// The tunnel is draining, on this side or the other: another one may take it.
    #[error("the tunnel is going away")]
    GoingAway,
    /// The tunnel ended before the answer came.
    #[error("the tunnel ended before the peer answered: {0}")]
    Lost(TunnelEnd),
}

impl ConnectError {
    /// Whether the peer certainly did nothing with the request, so that it
    /// may be sent again on another tunnel.
    pub fn may_retry(&self) -> bool {
        match self {
            Self::NoRoom | Self::GoingAway => true,
            Self::Reset(code) => *code == super::frame::code::REFUSED_STREAM,
            Self::Refused { .. } | Self::Lost(_) => false,
        }
    }
}

/// How a tunnel ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TunnelEnd {
    /// It was drained, here or at the peer, and its last flow had ended.
    #[error("drained")]
    Drained,
    /// The peer closed it, in order, with flows or not.
    #[error("closed by the peer")]
    ClosedByPeer,
    /// The peer ended it with an HTTP/2 error.
    #[error("the peer ended it with HTTP/2 error {}", Code(*.0))]
    PeerError(u32),
    /// The peer broke the protocol or went past a limit; the tunnel was ended
    /// with that error code.
    #[error("the peer broke the protocol: {0}")]
    Violation(Violation),
    /// The TCP connection ended without TLS close_notify: data may be missing.
    #[error("cut off: the connection ended without a TLS close_notify")]
    Truncated,
    /// TLS failed: a forged or broken record, or an alert.
    #[error("TLS failed: {0}")]
    Tls(rustls::Error),
    /// The TCP connection failed.
    #[error("the connection failed: {0}")]
    Io(io::ErrorKind),
    /// The peer did not answer a PING in time.
    #[error("the peer did not answer a keepalive in time")]
    Unresponsive,
    /// This daemon cut it.
    #[error("cut here: {0}")]
    Cut(Cut),
}

/// What a peer did that ends its tunnel, or, for the stream's kinds, one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The HTTP/2 error code that it is answered with.
    pub code: u32,
    /// What it was, in words.
    pub what: &'static str,
}

impl Violation {
    /// It kept the protocol, and sent more of something than anybody needs.
    pub fn is_flood(&self) -> bool {
        self.code == super::frame::code::ENHANCE_YOUR_CALM
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, Code(self.code))
    }
}

/// An HTTP/2 error code with its name.
struct Code(u32);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match super::frame::code::name(self.0) {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}
