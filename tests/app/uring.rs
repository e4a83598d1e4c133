//! connect(2) as io_uring does it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types};
use socket2::{SockAddr, Socket};

#[expect(unsafe_code, reason = "a submission lends memory to the kernel")]
pub(crate) fn connect(socket: &Socket, to: SocketAddr) -> io::Result<()> {
    let address = SockAddr::from(to);
    let entry = opcode::Connect::new(
        types::Fd(socket.as_raw_fd()),
        address.as_ptr().cast(),
        address.len(),
    )
    .build();
    let mut ring = IoUring::new(2)?;
    // SAFETY: `address` and `socket` live until the completion, which is
    // awaited below.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    match ring.completion().next().map(|done| done.result()) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::Error::other("io_uring completed nothing")),
    }
}
