//! The packet socket.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::capture::pcap;
use crate::error::{Doing, Result};

/// Room for what comes while the recording thread waits for a CPU. Nothing is
/// reserved; the kernel counts twice this, overhead included.
const RECEIVE_BUFFER: libc::c_int = 512 * 1024 * 1024;
/// More than any frame, segmentation offload included.
const FRAME: usize = 256 * 1024;

/// A packet socket bound to an interface of the thread's network namespace.
pub(super) fn open(interface: &str) -> io::Result<OwnedFd> {
    // Protocol 0 takes nothing until the socket is bound to the interface.
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    socket.set_nonblocking(true)?;
    set_option(
        &socket,
        libc::SOL_SOCKET,
        libc::SO_RCVBUFFORCE,
        RECEIVE_BUFFER,
    )?;
    socket.bind(&link_address(interface)?)?;
    Ok(socket.into())
}

/// Writes frames until `stop` is readable and the socket is empty; returns
/// how many frames were lost.
pub(super) fn record(socket: &OwnedFd, stop: &OwnedFd, mut file: pcap::Writer) -> Result<u64> {
    let mut frame = vec![0; FRAME];
    loop {
        let mut fds = [
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e).doing(|| "waiting for frames"),
        }
        // Asked before the socket is emptied: what came before it counts.
        let last_round = fds[1].any().unwrap_or(false);
        loop {
            // With MSG_TRUNC the answer is the frame's whole length.
            match recv(socket.as_raw_fd(), &mut frame, MsgFlags::MSG_TRUNC) {
                Ok(length) => file.frame(&frame[..length.min(FRAME)], length)?,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR | Errno::ENETDOWN) => {}
                Err(e) => return Err(e).doing(|| "receiving a frame"),
            }
        }
        if last_round {
            file.close()?;
            return lost(socket).doing(|| "asking for the capture's statistics");
        }
    }
}

#[expect(unsafe_code, reason = "a sockaddr_ll has no safe constructor")]
fn link_address(interface: &str) -> io::Result<SockAddr> {
    let name = CString::new(interface)?;
    // SAFETY: a string that ends with a zero byte.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is plain data, fits, and is one of the socket addresses.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL)
        .map_err(io::Error::other)?
        .to_be();
    address.sll_ifindex = index.cast_signed();
    let len = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(20);
    // SAFETY: `len` bytes of the storage hold the address written above.
    Ok(unsafe { SockAddr::new(storage, len) })
}

#[expect(
    unsafe_code,
    reason = "neither socket2 nor nix know SO_RCVBUFFORCE as a number"
)]
fn set_option(
    socket: &Socket,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(4);
    // SAFETY: the kernel reads `len` bytes of `value`.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
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

/// Frames that the kernel dropped for want of room since the socket was made.
#[expect(unsafe_code, reason = "nix has no PACKET_STATISTICS")]
fn lost(socket: &OwnedFd) -> io::Result<u64> {
    let mut statistics = MaybeUninit::<libc::tpacket_stats>::zeroed();
    let mut len = libc::socklen_t::try_from(size_of::<libc::tpacket_stats>()).unwrap_or(8);
    // SAFETY: the kernel writes at most `len` bytes, the size of the structure.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            statistics.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: plain integers, zeroed or written by the kernel.
    Ok(unsafe { statistics.assume_init() }.tp_drops.into())
}
