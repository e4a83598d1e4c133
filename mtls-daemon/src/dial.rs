//! Dialling a workload's own application, on loopback inside its namespace.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use mtls_common::addr::dial_address;
use socket2::Socket;
use tokio::time::timeout;

use crate::addr::ClientAddr;
use crate::kernel::{ClientName, Handoff};
use crate::netns::{self, Netns};
use crate::policy::Permit;
use crate::reason::Reason;
use crate::refused::Refused;

/// A connection to the application, and the note in the kernel by which the
/// application sees its true client; the note lives as long as this.
pub struct Dialled {
    pub socket: TcpStream,
    pub name: ClientName,
}

/// Addresses tried before the client's source port is given up.
const ADDRESSES: u16 = 4;

/// Connect to the application that `permit` allows.
///
/// The source address lies in the daemon's own loopback range, which is how
/// the kernel's hooks tell this connection from others; the source port is the
/// client's own where it is free.
pub async fn dial(
    permit: Permit,
    netns: &Netns,
    handoff: &Handoff,
    limit: Duration,
) -> Result<Dialled, Refused> {
    let (app, client) = (permit.app(), permit.client());
    let mut attempt = 0;
    loop {
        let (socket, from) = bound(netns, app, client, attempt)
            .map_err(|error| Refused::socket(&error, "making the application's socket"))?;
        // Written before the connect: the application may ask for its peer
        // from within accept().
        let name = handoff
            .name_client(netns.cookie().0, app, from, client)
            .map_err(|error| Refused::socket(&error, "noting the client's address"))?;
        match timeout(limit, connect(socket, app)).await {
            Ok(Ok(socket)) => return Ok(Dialled { socket, name }),
            // This 4-tuple is still in TIME_WAIT: the next address has none.
            Ok(Err(error))
                if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) && attempt < ADDRESSES =>
            {
                attempt += 1;
            }
            Ok(Err(error)) => {
                return Err(Refused::new(Reason::DialFailed, format!("{app}: {error}")));
            }
            Err(_elapsed) => {
                let what = format!("{app} did not accept in {limit:?}");
                return Err(Refused::new(Reason::DialFailed, what));
            }
        }
    }
}

/// Connects, mostly without waiting: on loopback the handshake is over, one
/// way or the other, when the call returns, and asking once more tells.
async fn connect(socket: Socket, app: SocketAddr) -> io::Result<TcpStream> {
    let under_way = |error: &io::Error| {
        matches!(
            error.raw_os_error(),
            Some(libc::EINPROGRESS | libc::EALREADY)
        )
    };
    let to = app.into();
    let asked = socket.connect(&to).or_else(|error| {
        if under_way(&error) {
            socket.connect(&to)
        } else {
            Err(error)
        }
    });
    match asked {
        Ok(()) => Ok(socket.into()),
        // A full backlog: the kernel goes on asking.
        Err(error) if under_way(&error) => {
            let stream = tokio::net::TcpStream::from_std(socket.into())?;
            stream.writable().await?;
            match stream.take_error()? {
                Some(error) => Err(error),
                None => stream.into_std(),
            }
        }
        Err(error) => Err(error),
    }
}

fn bound(
    netns: &Netns,
    app: SocketAddr,
    client: ClientAddr,
    attempt: u16,
) -> io::Result<(Socket, SocketAddr)> {
    let ip = match app.ip() {
        IpAddr::V4(_) => IpAddr::V4(dial_address(client.0.ip(), attempt)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    let socket = netns.sockets(|| {
        let socket = netns::stream(netns::domain(ip))?;
        // From birth: a daemon that dies resets the application.
        socket.set_linger(Some(Duration::ZERO))?;
        socket.set_reuse_address(true)?;
        Ok(socket)
    })?;
    let wanted = SocketAddr::new(ip, client.0.port());
    let any = SocketAddr::new(ip, 0);
    let busy = |error: &io::Error| error.raw_os_error() == Some(libc::EADDRINUSE);
    match socket.bind(&wanted.into()) {
        // A wildcard listener of the workload has that very port.
        Err(error) if busy(&error) => socket.bind(&any.into())?,
        done => done?,
    }
    let from = socket.local_addr()?.as_socket().unwrap_or(any);
    Ok((socket, from))
}
