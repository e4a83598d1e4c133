//! HTTP/2 frames.

/// HTTP/2 error codes (RFC 9113, section 7).
pub mod code {
    /// Not an error.
    pub const NO_ERROR: u32 = 0x0;
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: u32 = 0x1;
    /// A fault of the sender of the code.
    pub const INTERNAL_ERROR: u32 = 0x2;
    /// More data came than the window allowed.
    pub const FLOW_CONTROL_ERROR: u32 = 0x3;
    /// SETTINGS were not acknowledged in time.
    pub const SETTINGS_TIMEOUT: u32 = 0x4;
    /// A frame came for a half-closed stream.
    pub const STREAM_CLOSED: u32 = 0x5;
    /// A frame had a size that its type does not allow.
    pub const FRAME_SIZE_ERROR: u32 = 0x6;
    /// The stream was not looked at: it may be tried again.
    pub const REFUSED_STREAM: u32 = 0x7;
    /// The stream is no longer wanted.
    pub const CANCEL: u32 = 0x8;
    /// The header compression state is broken.
    pub const COMPRESSION_ERROR: u32 = 0x9;
    /// The TCP connection behind a CONNECT was reset or failed.
    pub const CONNECT_ERROR: u32 = 0xa;
    /// The peer does what generates too much work.
    pub const ENHANCE_YOUR_CALM: u32 = 0xb;

    /// The code's name in the RFC.
    pub fn name(code: u32) -> Option<&'static str> {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        NAMES.get(usize::try_from(code).ok()?).copied()
    }
}
