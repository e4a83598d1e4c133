//! Dialling a workload's own application, on loopback inside its namespace.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use mtls_common::addr::dial_address;
use socket2::Socket;
use tokio::time::timeout;

use crate::addr::ClientAddr;
use crate::kernel::{ClientName, Handoff};
use crate::netns::{Family, Netns};
use crate::policy::Permit;
use crate::reason::Reason;
use crate::refused::Refused;
use crate::sock_diag;

/// A connection to the application, and the note in the kernel by which the
/// application sees its true client; the note lives as long as this.
pub struct Dialled {
    pub socket: TcpStream,
    pub name: ClientName,
}

/// Connect to the application that `permit` allows.
pub async fn dial(
    permit: Permit,
    netns: &Netns,
    handoff: &Handoff,
    limit: Duration,
) -> Result<Dialled, Refused> {
    let (app, client) = (permit.app(), permit.client());
    let (mut attempt, mut taken) = (0, None);
    while let Some(from) = source(app, client, attempt) {
        attempt += 1;
        let (socket, from) = match bound(netns, from) {
            Ok(bound) => bound,
            Err(error) if is_taken(&error) => {
                taken = Some(error);
                continue;
            }
            Err(error) => return Err(Refused::socket(&error, "making the application's socket")),
        };
        // Written before the connect: the application may ask for its peer
        // from within accept().
        let name = match handoff.name_client(netns.cookie().0, app, from, client) {
            Ok(name) => name,
            Err(error) if is_taken(&error) => {
                taken = Some(error);
                continue;
            }
            Err(error) => return Err(Refused::socket(&error, "noting the client's address")),
        };
        let answered = match connect(netns, socket, from, app) {
            Ok(asked) => timeout(limit, asked.answer()).await,
            Err(error) => Ok(Err(error)),
        };
        match answered {
            Ok(Ok(socket)) => return heard(socket, name, app),
            Ok(Err(error)) if is_taken(&error) => taken = Some(error),
            Ok(Err(error)) => {
                return Err(Refused::new(Reason::DialFailed, format!("{app}: {error}")));
            }
            Err(_elapsed) => {
                let what = format!("{app} did not accept in {limit:?}");
                return Err(Refused::new(Reason::DialFailed, what));
            }
        }
    }
    // Not the application's answer, which was never asked.
    let error = taken.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
    Err(Refused::socket(
        &error,
        "looking for a source port towards the application",
    ))
}

/// An application that does not hear of its client would take it for a
/// neighbour on its own machine.
fn heard(socket: TcpStream, name: ClientName, app: SocketAddr) -> Result<Dialled, Refused> {
    match name.is_heard() {
        Ok(true) => Ok(Dialled { socket, name }),
        Ok(false) => Err(Refused::new(
            Reason::DialFailed,
            format!(
                "{app}: its listener was made outside of kernel.cgroup, where no hook tells it who its client is; make it in a cgroup below"
            ),
        )),
        Err(error) => Err(Refused::socket(&error, "asking for the client's name")),
    }
}

/// Whether the kernel refused a source and not the connection: a wildcard
/// listener of the workload has that port (EADDRINUSE at bind), or another
/// connection to the application has both, and a name (EEXIST) or still a
/// socket (EADDRNOTAVAIL at connect).
fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EADDRINUSE | libc::EADDRNOTAVAIL | libc::EEXIST)
    )
}

/// Where to dial from, at the `nth` attempt.
///
/// The address lies in the daemon's own loopback range, which is how the
/// kernel's hooks tell this connection from others; the port is the client's
/// own where it is free. Over IPv4 another address may have it free. IPv6 has
/// one loopback address for all clients: two connections of one client port to
/// an application, through its service and directly, or two clients' with the
/// same port, need another port.
fn source(app: SocketAddr, client: ClientAddr, nth: u16) -> Option<SocketAddr> {
    const OTHER_PORTS: u16 = 4;
    let (ip, port) = (client.0.ip(), client.0.port());
    let own_ports = if app.is_ipv4() { 4 } else { 1 };
    let (address, port) = match nth {
        n if n < own_ports => (n, port),
        n if n < own_ports + OTHER_PORTS => (0, 0),
        _ => return None,
    };
    let address = match app.ip() {
        IpAddr::V4(_) => IpAddr::V4(dial_address(ip, address)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    Some(SocketAddr::new(address, port))
}

/// Connects, mostly without waiting: on loopback the handshake is over, one
/// way or the other, when the call returns, and asking once more tells.
fn connect(netns: &Netns, socket: Socket, from: SocketAddr, app: SocketAddr) -> io::Result<Asked> {
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
        Ok(()) => Ok(Asked::Accepted(socket.into())),
        // Over IPv6 a closed port is silent: its RST has no way to ::1.
        Err(error) if under_way(&error) && is_closed(netns, app, from) => {
            Err(io::ErrorKind::ConnectionRefused.into())
        }
        Err(error) if under_way(&error) => Ok(Asked::UnderWay(socket.into())),
        Err(error) => Err(error),
    }
}

enum Asked {
    Accepted(TcpStream),
    /// A full backlog: the kernel goes on asking.
    UnderWay(TcpStream),
}

impl Asked {
    async fn answer(self) -> io::Result<TcpStream> {
        match self {
            Self::Accepted(socket) => Ok(socket),
            Self::UnderWay(socket) => {
                let stream = tokio::net::TcpStream::from_std(socket)?;
                stream.writable().await?;
                match stream.take_error()? {
                    Some(error) => Err(error),
                    None => stream.into_std(),
                }
            }
        }
    }
}

/// Whether nobody listens at `app`. Who cannot be asked may answer yet.
fn is_closed(netns: &Netns, app: SocketAddr, from: SocketAddr) -> bool {
    let listens = sock_diag::listens(netns, app, from);
    !listens.unwrap_or_else(|error| {
        tracing::debug!(%error, %app, "asking for a listener");
        true
    })
}

/// A socket of the workload's namespace at `from`, and where that is if its
/// port is 0.
fn bound(netns: &Netns, from: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
    let socket = netns.stream(Family::of(from.ip()))?;
    // From birth: a daemon that dies resets the application.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    let from = socket.local_addr()?.as_socket().unwrap_or(from);
    Ok((socket, from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(app: &str) -> Vec<SocketAddr> {
        let client = ClientAddr("10.0.1.4:41022".parse().unwrap());
        let app = app.parse().unwrap();
        (0..).map_while(|nth| source(app, client, nth)).collect()
    }

    #[test]
    fn the_clients_own_port_is_tried_first_on_several_addresses() {
        let tried = tried("10.0.2.7:5432");
        let own: Vec<_> = tried.iter().filter(|from| from.port() == 41022).collect();
        assert_eq!(own.len(), 4);
        assert_eq!(own[0], &tried[0]);
        assert_ne!(own[0].ip(), own[1].ip());
        assert_eq!(tried.last().unwrap().port(), 0);
    }

    #[test]
    fn over_ipv6_only_another_port_is_another_source() {
        let tried = tried("[fd00:2::7]:5432");
        let ports: Vec<_> = tried.iter().map(SocketAddr::port).collect();
        assert_eq!(ports, [41022, 0, 0, 0, 0]);
    }
}
