//! Network namespaces that the hooks know and no workload is in.
//!
//! Enforcement is for a network namespace and not for its name: whatever
//! becomes of its place, what runs in it is refused until it is served again,
//! or the kernel has freed it, or the operator has given it up.

use std::collections::{BTreeMap, HashSet};

use crate::admin::view::Displaced;
use crate::config::Mode;
use crate::kernel::{FoundAt, Kernel, Standing};

use super::Node;
use super::enrolled::Enrolled;

impl Node {
    /// Make the hooks forget the network namespaces that no workload is in,
    /// if they are gone, or given up, or were only left alone.
    pub fn let_go(&self, workloads: &BTreeMap<String, Enrolled>) {
        let mut kernel = self.kernel.borrow_mut();
        for (cookie, standing) in unplaced(&kernel, workloads) {
            let why = match standing {
                // An earlier daemon may have left it alone for good reason.
                Standing::NotEnrolled if self.awaits_cluster() => continue,
                Standing::NotEnrolled => "it was left alone",
                Standing::Enrolled(found_at) if self.gave_up(found_at) => {
                    "the configuration has given it up"
                }
                Standing::Enrolled(_) => match kernel.is_gone(cookie) {
                    Ok(true) => "it is gone",
                    Ok(false) => continue,
                    Err(error) => {
                        tracing::error!(cookie, %error, "looking after a network namespace");
                        continue;
                    }
                },
            };
            match kernel.remove(cookie) {
                Ok(()) => tracing::info!(cookie, why, "network namespace let go"),
                Err(error) => tracing::error!(cookie, %error, "removing from the hooks"),
            }
        }
    }

    /// Network namespaces that stay refused though no workload is in them.
    pub fn displaced(&self, workloads: &BTreeMap<String, Enrolled>) -> Vec<Displaced> {
        let kernel = self.kernel.borrow();
        let unplaced = unplaced(&kernel, workloads).into_iter();
        unplaced
            .filter(|(_, standing)| matches!(standing, Standing::Enrolled(_)))
            .map(|(netns_cookie, _)| Displaced {
                netns_cookie,
                netns_inode: kernel.inode(netns_cookie),
            })
            .collect()
    }

    /// Nobody has said yet which pods are on this node now.
    fn awaits_cluster(&self) -> bool {
        let cluster = self.cluster.borrow();
        cluster.as_ref().is_some_and(|snapshot| !snapshot.is_told)
    }

    /// Whether nothing that the configuration enrols is where a network
    /// namespace was found.
    fn gave_up(&self, found_at: FoundAt) -> bool {
        let config = self.config.borrow();
        found_at != FoundAt::BESIDE
            && !config.workloads.iter().any(|workload| {
                config.mode_of(workload) != Mode::Off && FoundAt::place(&workload.place) == found_at
            })
    }
}

/// An earlier daemon's are among them.
fn unplaced(kernel: &Kernel, workloads: &BTreeMap<String, Enrolled>) -> Vec<(u64, Standing)> {
    let cookies = workloads.values().filter_map(Enrolled::cookie);
    let placed: HashSet<u64> = cookies.map(|cookie| cookie.0).collect();
    let mut known = kernel.known();
    known.retain(|(cookie, _)| !placed.contains(cookie));
    known
}
