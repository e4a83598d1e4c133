//! What carries an endpoint's bytes: TLS, outside of property tests.

use std::io;
use std::net::TcpStream;

use crate::tls::{self, Opened};

/// Seals and opens the records of one tunnel.
pub(super) trait Records {
    /// See [`tls::Records::open`].
    fn open(&mut self, wire: &mut &[u8], plain: &mut [u8]) -> Result<Opened, rustls::Error>;

    /// See [`tls::Records::send`].
    fn send(&mut self, plain: &mut [u8], last: bool, socket: &TcpStream) -> io::Result<usize>;
}

impl Records for tls::Records {
    fn open(&mut self, wire: &mut &[u8], plain: &mut [u8]) -> Result<Opened, rustls::Error> {
        self.open(wire, plain)
    }

    fn send(&mut self, plain: &mut [u8], last: bool, socket: &TcpStream) -> io::Result<usize> {
        self.send(plain, last, socket)
    }
}
