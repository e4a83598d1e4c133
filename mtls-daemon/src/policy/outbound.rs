//! Where a captured connection goes.

use crate::addr::OriginalDst;
use crate::directory::{Destination, Directory, Endpoint};
use crate::reason::Reason;

/// The peers that may answer a captured connection; never empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    /// In the directory's order; the caller chooses among them.
    pub endpoints: Vec<Endpoint>,
}

/// Decide for a connection to `dst`. What the daemon holds was captured, so it
/// is carried in a tunnel or it is refused; nothing captured goes in clear.
pub fn route(directory: &Directory, dst: OriginalDst) -> Result<Route, Reason> {
    match directory.find(dst) {
        Destination::Workload(endpoint) => Ok(Route {
            endpoints: vec![endpoint],
        }),
        Destination::Service(endpoints) => Ok(Route { endpoints }),
        Destination::Unknown => Err(Reason::UnknownDestination),
        // The kernel lets these pass or refuses them by itself. One that
        // arrives here was captured under an older set of networks.
        Destination::Outside => Err(Reason::OutsideRefused),
    }
}
