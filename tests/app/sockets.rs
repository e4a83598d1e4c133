//! Sockets as scripts ask for them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use mtls_tests::script::SocketKind;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpListener;

const BACKLOG: i32 = 4096;

/// A TCP or MPTCP socket for `address`, bound to nothing.
pub(crate) fn stream(address: SocketAddr, kind: SocketKind) -> io::Result<Socket> {
    let protocol = if kind.mptcp {
        Protocol::MPTCP
    } else {
        Protocol::TCP
    };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(protocol))?;
    if !kind.no_reuse {
        socket.set_reuse_address(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(kind.v6_only)?;
    }
    Ok(socket)
}

pub(crate) fn listen(address: SocketAddr, kind: SocketKind) -> io::Result<TcpListener> {
    let socket = stream(address, kind)?;
    socket.bind(&address.into())?;
    if kind.fast_open {
        set_tcp_option(&socket, libc::TCP_FASTOPEN, 256)?;
    }
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

#[expect(unsafe_code, reason = "socket2 lacks the options of TCP fast open")]
pub(crate) fn set_tcp_option(socket: &Socket, option: i32, value: i32) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<i32>()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `len` bytes of `value`.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw const value).cast(),
            len,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The next close sends a RST and forgets what is queued.
pub(crate) fn reset_on_close(stream: &tokio::net::TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO))
}

/// Scripts open thousands of connections.
pub(crate) fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // With the lower limit, a script that needs more fails and says so.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
