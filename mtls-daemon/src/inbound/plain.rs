//! A connection that comes in clear to a workload that takes such.
//!
//! The kernel steers it here and not to the application, because policies are
//! to be asked, with a caller that has proved nothing. From then on it is a
//! connection like those in tunnels: counted, listed, logged, judged again.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use crate::access_log::TunnelUse;
use crate::addr::{ClientAddr, OriginalDst, TunnelAddr};
use crate::dial::{Dialled, dial};
use crate::direct::Far;
use crate::flow::{Carry, Flow};
use crate::metrics::{ConnectionResult, Direction, InClear, Plaintext};
use crate::policy::{self, PlainRequest};
use crate::reason::Reason;
use crate::refused::Refused;

use super::{Arrived, Inbound};

impl Inbound {
    /// Deliver one connection. Dropping its socket resets the client.
    pub async fn take_plain(self: Rc<Self>, arrived: Arrived) {
        let Arrived {
            socket,
            workload,
            source,
            pass: _pass,
        } = arrived;
        let Ok(app) = socket.local_addr() else {
            let direction = Direction::Inbound;
            return (self.metrics).connection_refused(direction, Reason::ResetByPeer);
        };
        let facts = self.facts.get();
        let client = ClientAddr(source);
        let request = PlainRequest {
            workload: workload.target(),
            app,
            client,
        };
        let judged = policy::authorise_plain(&request, &facts.modes, &facts.rules);
        let (permit, rule) = self.count(judged);
        let caller = facts.directory.caller(source.ip());
        let flow = Flow {
            id: self.ids.next(),
            direction: Direction::Inbound,
            workload: Arc::clone(&workload),
            peer: None,
            client: Some(client),
            original_dst: OriginalDst(app),
            tunnel: Some(TunnelAddr(source)),
            tunnel_use: Some(TunnelUse::None(Plaintext::Permissive)),
            rule,
            began: Instant::now(),
        };
        let permit = match self.tunnels.are_draining() {
            true => Err(Reason::Draining),
            false => permit,
        };
        let dialled = match permit {
            Ok(permit) => {
                let limit = facts.limits.connect;
                dial(permit, &workload.netns, &self.handoff, limit).await
            }
            Err(reason) => Err(Refused::from(reason)),
        };
        let dialled = dialled.and_then(|dialled| self.still_allowed(&flow, &facts, dialled));
        let both = dialled.and_then(|dialled| match Far::client(socket, &workload) {
            Ok(far) => Ok((dialled, far)),
            Err(error) => Err(Refused::socket(&error, "taking the client's socket")),
        });
        match both {
            Ok((Dialled { socket: app, name }, far)) => {
                self.metrics
                    .carried_in_clear(Direction::Inbound, Plaintext::Permissive);
                self.metrics
                    .called_in_clear(caller, ConnectionResult::Established);
                self.metrics.seen_in_clear(InClear {
                    workload: Arc::clone(&workload.name),
                    direction: Direction::Inbound,
                    other: source.ip(),
                    port: flow.original_dst.0.port(),
                });
                let carry = Carry::Direct(Box::new(self.directs.carry(app, far)));
                self.flows.follow(flow, carry, Some(name));
            }
            Err(refused) => {
                self.metrics
                    .called_in_clear(caller, ConnectionResult::Refused);
                self.flows.refused(&flow, &refused);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_is_small() {
        fn size<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
            size_of::<F>()
        }
        let take = size(Inbound::take_plain);
        assert!(take <= 1_280, "{take} bytes");
    }
}
