//! Where a captured connection goes.

use crate::addr::OriginalDst;
use crate::config::Outside;
use crate::directory::{Destination, Directory, Target};
use crate::reason::Reason;

/// Those that may answer a captured connection; never empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    /// In the directory's order; the caller chooses among them.
    pub targets: Vec<Target>,
}

/// Decide for a connection to `dst`. What the daemon holds was captured, so it
/// is carried in a tunnel or it is refused, but for what the cluster itself
/// says is no workload, if `outside` lets that pass: API servers, nodes, and
/// whatever else somebody has put behind a Service.
pub fn route(directory: &Directory, outside: Outside, dst: OriginalDst) -> Result<Route, Reason> {
    let mut targets = match directory.find(dst) {
        Destination::Workload(endpoint) => vec![Target::Workload(endpoint)],
        Destination::Service(targets) => targets,
        Destination::Node => vec![Target::Outside(dst.0)],
        Destination::Unknown => return Err(Reason::UnknownDestination),
        // The kernel lets these pass or refuses them by itself. One that
        // arrives here was captured under an older set of networks.
        Destination::Outside => return Err(Reason::OutsideRefused),
    };
    if outside == Outside::Refuse {
        targets.retain(|target| matches!(target, Target::Workload(_)));
    }
    match targets.is_empty() {
        true => Err(Reason::OutsideRefused),
        false => Ok(Route { targets }),
    }
}
