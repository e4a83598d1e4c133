//! What a cluster's API server has said of addresses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use crate::spiffe::SpiffeId;

use super::Service;

/// A snapshot; without a cluster everything in it is empty.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Whether there is somebody to ask about addresses that are not in `pods`.
    pub answers: bool,
    /// Pods of this node, and whoever was asked for.
    pub seen: HashMap<IpAddr, Seen>,
    pub services: HashMap<IpAddr, Arc<Service>>,
    /// Networks that pods and Services have their addresses from.
    pub networks: Vec<IpNet>,
}

/// Who was seen at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub who: Who,
    /// When the API server answered; `None`: it tells of every change.
    pub asked: Option<Instant>,
}

/// Who is at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    Workload(SpiffeId),
    /// A pod that its labels, and those of its namespace, do not enrol.
    NotEnrolled(SpiffeId),
    /// A node, whose address is also that of its pods with `hostNetwork`.
    Node,
    Nobody,
}

impl Who {
    /// Of a pod, enrolled or not.
    pub fn identity(&self) -> Option<&SpiffeId> {
        match self {
            Self::Workload(id) | Self::NotEnrolled(id) => Some(id),
            Self::Node | Self::Nobody => None,
        }
    }
}

/// An answer is used for longer, and asked for again in the background.
const FRESH: Duration = Duration::from_secs(30);
/// A pod's address is known to the API server a moment after the pod begins.
const FRESH_NOBODY: Duration = Duration::from_millis(500);

impl Seen {
    pub(super) fn is_old(&self, now: Instant) -> bool {
        let limit = match self.who {
            Who::Workload(_) | Who::NotEnrolled(_) | Who::Node => FRESH,
            Who::Nobody => FRESH_NOBODY,
        };
        let age = |asked| now.saturating_duration_since(asked);
        self.asked.is_some_and(|asked| age(asked) >= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_never_grows_old_and_nobody_does_soon() {
        let now = Instant::now();
        let web = Who::Workload("spiffe://example.org/web".parse().unwrap());
        let seen = |who: &Who, asked| Seen {
            who: who.clone(),
            asked,
        };
        let later = now + Duration::from_secs(2);
        let old = Who::NotEnrolled("spiffe://example.org/old".parse().unwrap());
        for known in [&web, &old, &Who::Node] {
            assert!(!seen(known, None).is_old(later));
            assert!(!seen(known, Some(now)).is_old(later));
            assert!(seen(known, Some(now)).is_old(now + FRESH));
        }
        assert!(seen(&Who::Nobody, Some(now)).is_old(later));
    }
}
