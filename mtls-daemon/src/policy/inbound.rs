//! Who may connect to a workload, and the proof of it.

use std::net::{IpAddr, SocketAddr};

use crate::addr::ClientAddr;
use crate::reason::Reason;
use crate::spiffe::SpiffeId;
use crate::workload::Target;

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

/// A connection of `client` to a port of `workload`, as the rules see it.
pub fn connection<'a>(
    workload: Target<'a>,
    principal: Option<&'a SpiffeId>,
    client: ClientAddr,
    port: u16,
) -> Connection<'a> {
    let ip = client.0.ip();
    Connection {
        workload,
        principal,
        source: ip,
        // There are no gateways whose word would count.
        remote: ip,
        port,
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
    let connection = connection(
        request.workload,
        Some(request.peer),
        request.client,
        app.port(),
    );
    let decision = rules.inbound(&connection);
    let permit = match decision.is_allowed() {
        true => Ok(Permit {
            app,
            client: request.client,
        }),
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

    #[test]
    fn the_tunnel_port_is_not_dialled_through_a_tunnel() {
        assert_eq!(ask("10.0.2.7:15008").unwrap_err(), Reason::BadRequest);
    }
}
