//! Who may connect to a workload, and the proof of it.

use std::net::{IpAddr, SocketAddr};

use crate::addr::ClientAddr;
use crate::reason::Reason;
use crate::spiffe::SpiffeId;
use crate::workload::Target;

use super::modes::Modes;
use super::rules::{Connection, Decision, Rules};

/// What is known about a connection that a peer's daemon wants delivered.
#[derive(Debug)]
pub struct Request<'a> {
    /// The workload at whose door the tunnel arrived.
    pub workload: Target<'a>,
    /// The identity that the tunnel's peer has proved.
    pub peer: &'a SpiffeId,
    /// Destination address of the tunnel's own packets: the workload's.
    pub arrived_at: IpAddr,
    /// Where the peer asks us to connect.
    pub authority: SocketAddr,
    /// The client's address: the tunnel's source, with the port it claims.
    pub client: ClientAddr,
    pub tunnel_port: u16,
}

/// What is known about a connection that came in clear.
#[derive(Debug)]
pub struct PlainRequest<'a> {
    pub workload: Target<'a>,
    /// Where it came to: an address of the workload.
    pub app: SocketAddr,
    /// As its packets say.
    pub client: ClientAddr,
}

/// Proof that one connection may be delivered; the only thing that can be
/// dialled.
#[derive(Debug)]
pub struct Permit {
    app: SocketAddr,
    client: ClientAddr,
}

impl Permit {
    /// Where the application listens.
    pub fn app(&self) -> SocketAddr {
        self.app
    }

    /// Whom the application shall see.
    pub fn client(&self) -> ClientAddr {
        self.client
    }
}

/// Whether a connection may be delivered.
#[derive(Debug)]
pub struct Judged<'r> {
    pub permit: Result<Permit, Reason>,
    /// What the rules say, if they were asked.
    pub decision: Option<Decision<'r>>,
}

/// A connection of `client` to `app` of `workload`, as the rules see it.
pub fn connection<'a>(
    workload: Target<'a>,
    principal: Option<&'a SpiffeId>,
    client: ClientAddr,
    app: SocketAddr,
) -> Connection<'a> {
    let ip = client.0.ip();
    Connection {
        workload,
        principal,
        source: ip,
        // There are no gateways whose word would count.
        remote: ip,
        destination: app.ip(),
        port: app.port(),
    }
}

/// Decide whether the connection may be delivered.
pub fn authorise<'r>(request: &Request<'_>, rules: &'r Rules) -> Judged<'r> {
    let app = request.authority;
    let bad = Judged {
        permit: Err(Reason::BadRequest),
        decision: None,
    };
    // A tunnel reaches the workload at whose address it arrived and no other,
    // whatever the peer asks for.
    if app.ip() != request.arrived_at {
        return bad;
    }
    if app.port() == request.tunnel_port || app.port() == 0 {
        return bad;
    }
    ask(
        request.workload,
        Some(request.peer),
        app,
        request.client,
        rules,
    )
}

/// Decide whether a connection in clear may be delivered: if the workload
/// takes any at that port, and the policies let in a caller that has proved
/// nothing.
pub fn authorise_plain<'r>(
    request: &PlainRequest<'_>,
    modes: &Modes,
    rules: &'r Rules,
) -> Judged<'r> {
    let (workload, app) = (request.workload, request.app);
    // The kernel steers what comes from outside, never loopback: somebody in
    // the namespace dialled the listener itself, and would be given back to it.
    if app.ip().is_loopback() {
        return Judged {
            permit: Err(Reason::NoOriginalDst),
            decision: None,
        };
    }
    if !modes.takes_plaintext(workload.name, app.port()) {
        return Judged {
            permit: Err(Reason::PlaintextRefused),
            decision: None,
        };
    }
    ask(workload, None, app, request.client, rules)
}

fn ask<'r>(
    workload: Target<'_>,
    principal: Option<&SpiffeId>,
    app: SocketAddr,
    client: ClientAddr,
    rules: &'r Rules,
) -> Judged<'r> {
    let decision = rules.inbound(&connection(workload, principal, client, app));
    let permit = match decision.is_allowed() {
        true => Ok(Permit { app, client }),
        false => Err(Reason::NotAuthorised),
    };
    Judged {
        permit,
        decision: Some(decision),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(authority: &str) -> Result<Permit, Reason> {
        let id = "spiffe://example.org/web".parse().unwrap();
        let request = Request {
            workload: Target {
                name: "db",
                id: &"spiffe://example.org/db".parse().unwrap(),
            },
            peer: &id,
            arrived_at: "10.0.2.7".parse().unwrap(),
            authority: authority.parse().unwrap(),
            client: ClientAddr("10.0.1.4:41022".parse().unwrap()),
            tunnel_port: 15008,
        };
        authorise(&request, &Rules::default()).permit
    }

    #[test]
    fn the_workload_at_the_tunnels_own_address_is_reached() {
        let permit = ask("10.0.2.7:5432").unwrap();
        assert_eq!(permit.app(), "10.0.2.7:5432".parse().unwrap());
    }

    #[test]
    fn another_address_is_refused() {
        assert_eq!(ask("10.0.2.8:5432").unwrap_err(), Reason::BadRequest);
        assert_eq!(ask("127.0.0.1:5432").unwrap_err(), Reason::BadRequest);
    }

    fn ask_plain(app: &str, modes: &Modes) -> Result<Permit, Reason> {
        let request = PlainRequest {
            workload: Target {
                name: "db",
                id: &"spiffe://example.org/db".parse().unwrap(),
            },
            app: app.parse().unwrap(),
            client: ClientAddr("10.0.1.4:41022".parse().unwrap()),
        };
        authorise_plain(&request, modes, &Rules::default()).permit
    }

    #[test]
    fn plain_text_wants_a_workload_that_takes_it_and_no_listener_of_ours() {
        let modes = Modes::permissive("db");
        assert!(ask_plain("10.0.2.7:5432", &modes).is_ok());
        let strict = ask_plain("10.0.2.7:5432", &Modes::default());
        assert_eq!(strict.unwrap_err(), Reason::PlaintextRefused);
        for ours in ["127.0.0.1:40000", "[::1]:40000"] {
            let refused = ask_plain(ours, &modes).unwrap_err();
            assert_eq!(refused, Reason::NoOriginalDst);
        }
    }

    #[test]
    fn the_tunnel_port_is_not_dialled_through_a_tunnel() {
        assert_eq!(ask("10.0.2.7:15008").unwrap_err(), Reason::BadRequest);
    }
}
