//! Whom the workloads would lose if they turned strict.

use crate::admin::strict::{Loss, Standing, StrictReadiness};
use crate::admin::view::ConnectionDirection;
use crate::config::Mode;
use crate::metrics::{Caller, Direction, InClear, Observations, Seen};

use super::Node;
use super::enrolled::Enrolled;

impl Node {
    pub(super) fn readiness_for_strict(&self) -> Vec<StrictReadiness> {
        let all = self.metrics.observations();
        let workloads = self.workloads.borrow();
        let of = |enrolled| self.readiness_of(enrolled, &all);
        workloads.values().map(of).collect()
    }

    fn readiness_of(&self, enrolled: &Enrolled, all: &Observations) -> StrictReadiness {
        let name = enrolled.wanted.name.as_str();
        let seen = all.seen.iter().filter(|(what, _)| &*what.workload == name);
        let losses: Vec<Loss> = seen
            .filter(|(what, _)| self.would_be_refused(what))
            .map(|(what, seen)| self.loss(what, seen))
            .collect();
        let config = self.config.borrow();
        let has_open_ports = [Mode::Off, Mode::Permissive]
            .into_iter()
            .any(|mode| config.ports_in(mode, &enrolled.wanted).next().is_some());
        let standing = match enrolled.mode {
            Mode::Off => Standing::Unwatched,
            _ if !losses.is_empty() => Standing::NotReady,
            _ if all.is_incomplete => Standing::Incomplete,
            Mode::Strict if !has_open_ports => Standing::Strict,
            Mode::Permissive | Mode::Strict => Standing::Ready,
        };
        StrictReadiness {
            workload: name.to_owned(),
            mode: enrolled.mode,
            standing,
            watched: enrolled.watched(),
            losses,
        }
    }

    /// Ports that are strict already, calls of a workload that is, and calls of
    /// whom has a daemon by now, have nothing to lose any more.
    fn would_be_refused(&self, what: &InClear) -> bool {
        let facts = self.facts.borrow();
        match what.direction {
            Direction::Inbound => facts.modes.takes_plaintext(&what.workload, what.port),
            Direction::Outbound => {
                let has_none = facts.directory.caller(what.other) == Caller::NotEnrolled;
                has_none && facts.modes.sends_plaintext(&what.workload)
            }
        }
    }

    fn loss(&self, what: &InClear, seen: &Seen) -> Loss {
        let facts = self.facts.borrow();
        let directory = &facts.directory;
        Loss {
            direction: match what.direction {
                Direction::Inbound => ConnectionDirection::Inbound,
                Direction::Outbound => ConnectionDirection::Outbound,
            },
            address: what.other,
            identity: directory.identity_at(what.other).cloned(),
            known_as: directory.caller(what.other).word().to_owned(),
            port: what.port,
            connections: seen.connections,
            last_seen: seen.last.elapsed(),
        }
    }
}
