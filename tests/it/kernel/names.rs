//! A server application sees its client, and not the daemon that dialled it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mtls_common::addr::dial_address;
use mtls_daemon::addr::ClientAddr;
use mtls_daemon::kernel::{Hook, Outcome};
use mtls_daemon::netns::{self, Netns};
use mtls_tests::error::Doing;
use mtls_tests::script::{Serve, SocketKind, Step};
use mtls_tests::{Family, Result, ensure, ensure_eq, play, two_nodes};
use socket2::Socket;

use super::stage::Stage;

#[test]
fn kernel_names_the_client_to_the_server() -> Result {
    play("kernel-names", |scene| {
        let (a, _) = two_nodes(scene)?;
        let server = a.pod("server")?;
        let mut stage = Stage::attached(&a)?;
        let post = stage.enrol(&server)?;
        let handoff = stage.kernel().handoff();
        let dual = SocketKind::default();
        let v6_only = SocketKind {
            v6_only: true,
            ..dual
        };
        let mptcp = SocketKind {
            mptcp: true,
            ..dual
        };
        let any_v4 = Family::V4.any(8080);
        let any_v6 = Family::V6.any(8080);
        let (v4, v6) = (server.at(Family::V4, 8080), server.at(Family::V6, 8080));
        for (listen, socket, app) in [
            (any_v4, dual, v4),
            (any_v6, v6_only, v6),
            (any_v6, dual, v4),
            (any_v6, dual, v6),
            (any_v4, mptcp, v4),
            (any_v6, mptcp, v6),
        ] {
            let what = format!("{app} at a listener on {listen} with {socket:?}");
            let task = Serve::on(8080, [Step::ExpectEnd])
                .only_at(listen)
                .socket(socket);
            let mut serving = server.serve_as(task)?;
            let client: SocketAddr = match app {
                SocketAddr::V4(_) => ([10, 0, 2, 77], 41022).into(),
                SocketAddr::V6(_) => (Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x77), 41022).into(),
            };
            let (dialled, from) = bound(&post.netns, app, client).doing(|| "binding")?;
            let name = handoff
                .name_client(post.cookie, app, from, ClientAddr(client))
                .doing(|| "naming a client")?;
            // A second one of that 4-tuple must not take the name away.
            let stranger = ClientAddr(SocketAddr::new(client.ip(), 1));
            let again = handoff.name_client(post.cookie, app, from, stranger);
            ensure(
                again.is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists),
                || format!("{what} was named twice"),
            )?;
            connect(dialled, app).doing(|| format!("dialling {what}"))?;
            let seen = serving.ended()?.peer.map(canonical);
            ensure_eq(seen, Some(client), &what)?;

            // The same without a name: nobody, and never loopback.
            drop(name);
            let (dialled, _) = bound(&post.netns, app, client).doing(|| "binding")?;
            connect(dialled, app).doing(|| format!("dialling {what}"))?;
            let seen = serving.ended()?.peer.map(canonical);
            let nobody: IpAddr = match app {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0).into(),
            };
            ensure_eq(seen, Some((nobody, 0).into()), &what)?;
        }
        ensure_eq(stage.entries("CLIENT_NAMES")?, 0, "names left")?;
        // accept() asks for IPv4 clients of dual-stack listeners as for IPv6.
        let unknown = stage.count(Hook::GetPeerName4, Outcome::NameUnknown)?
            + stage.count(Hook::GetPeerName6, Outcome::NameUnknown)?;
        ensure(unknown >= 6, || format!("{unknown} counted"))
    })
}

/// A socket as the daemon dials with, bound to where it dials from.
fn bound(netns: &Netns, app: SocketAddr, client: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
    let from = match app {
        SocketAddr::V4(_) => IpAddr::V4(dial_address(client.ip(), 0)),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let socket = netns.stream(netns::Family::of(from))?;
    socket.set_reuse_address(true)?;
    // Any port: the name carries the client's.
    socket.bind(&SocketAddr::new(from, 0).into())?;
    let from = socket.local_addr()?.as_socket();
    from.map(|from| (socket, from))
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Connects, and ends the connection in order.
fn connect(socket: Socket, to: SocketAddr) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.connect(&to.into())
}

fn canonical(address: SocketAddr) -> SocketAddr {
    mtls_daemon::addr::canonical(address)
}
