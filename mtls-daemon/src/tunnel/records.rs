//! TLS records: plaintext in, bytes on the socket out, and back.

use std::io::{self, IoSlice, Read as _, Write};
use std::net::TcpStream;

use socket2::SockRef;

/// The most plaintext that one record carries.
const MAX_PLAINTEXT: usize = 16_384;
/// What a record adds: its head, the content type and the tag.
const RECORD_OVERHEAD: usize = 5 + 1 + 16;

/// Seals and opens the records of one tunnel. rustls does it today; records
/// sealed in place could take its place.
pub(super) trait Records {
    /// Opens records from the front of `wire` into `plain`, which has room for
    /// several: until `wire` is used up or `plain` might not hold the next.
    fn open(&mut self, wire: &mut &[u8], plain: &mut [u8]) -> Result<Opened, rustls::Error>;

    /// Seals `plain` behind what waits already, and with `last` the notice
    /// that nothing follows; then writes what the socket takes. Returns about
    /// how many bytes of records still wait.
    fn send(&mut self, plain: &[u8], last: bool, socket: &TcpStream) -> io::Result<usize>;
}

/// What was opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened {
    /// Bytes of plaintext.
    pub(super) plain: usize,
    /// The peer has said, under the records' protection, that nothing follows.
    pub(super) closed: bool,
}

/// rustls' buffered connection.
pub(super) struct Rustls {
    tls: rustls::Connection,
    unsent: usize,
}

impl Rustls {
    pub(super) fn new(tls: impl Into<rustls::Connection>) -> Self {
        let mut tls = tls.into();
        // The loop itself bounds what it seals before the socket takes it.
        tls.set_buffer_limit(None);
        Self { tls, unsent: 0 }
    }
}

impl Records for Rustls {
    fn open(&mut self, wire: &mut &[u8], plain: &mut [u8]) -> Result<Opened, rustls::Error> {
        let mut filled = 0;
        let mut closed = false;
        loop {
            // First, because rustls reads no further record while one waits.
            match self.tls.reader().read(&mut plain[filled..]) {
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(rustls::Error::General(e.to_string())),
            }
            if closed || wire.is_empty() || plain.len() - filled < 2 * MAX_PLAINTEXT {
                return Ok(Opened {
                    plain: filled,
                    closed,
                });
            }
            // At most 4 KiB are taken at a time; from memory, that is cheap.
            self.tls
                .read_tls(wire)
                .map_err(|e| rustls::Error::General(e.to_string()))?;
            closed = self.tls.process_new_packets()?.peer_has_closed();
        }
    }

    fn send(&mut self, plain: &[u8], last: bool, socket: &TcpStream) -> io::Result<usize> {
        if !plain.is_empty() {
            self.tls.writer().write_all(plain)?;
            self.unsent += plain.len() + plain.len().div_ceil(MAX_PLAINTEXT) * RECORD_OVERHEAD;
        }
        if last {
            self.tls.send_close_notify();
        }
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Socket(socket)) {
                Ok(n) => self.unsent = self.unsent.saturating_sub(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(self.unsent.max(1)),
                Err(e) => return Err(e),
            }
        }
        self.unsent = 0;
        Ok(0)
    }
}

/// A socket to write to without SIGPIPE, whatever the process does with it.
struct Socket<'s>(&'s TcpStream);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        SockRef::from(self.0).send_with_flags(bytes, libc::MSG_NOSIGNAL)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        SockRef::from(self.0).send_vectored_with_flags(slices, libc::MSG_NOSIGNAL)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
