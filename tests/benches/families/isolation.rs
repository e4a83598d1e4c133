//! What others do to a request and its answer: the p99 beside them, over the
//! p99 alone, in the same round. Plain TCP is measured, too: what the machine
//! itself does to it is not the proxies' doing.

use std::time::Duration;

use mtls_tests::mesh::Ca;
use mtls_tests::process::Process;
use mtls_tests::{Family, Pod, Result};

use super::loads::{BULK_1, BULK_8, CRR_64, Load, RR_1, fairness};
use crate::bench::Bench;
use crate::candidates::Candidate::{Chain, Direct, Envoy, Ours};
use crate::course::{Change, Course, Way, beside, myself};
use crate::figures::Value;
use crate::handshake;
use crate::load::Order;

/// Where daemons take tunnels, by default.
const TUNNELS: u16 = 15008;
const STRANGERS_A_SECOND: &str = "100";
/// Longer than any measurement beside it.
const LONG: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
enum Beside {
    Nobody,
    /// A bulk flow of the same two pods: ours share a tunnel.
    Bulk,
    /// Another workload, which opens connections to the same server as fast as
    /// it can.
    Connections,
    /// Handshakes at the server's tunnel port with a certificate of an
    /// authority that nobody trusts.
    Strangers,
}

impl Beside {
    const ALL: [Self; 4] = [Self::Nobody, Self::Bulk, Self::Connections, Self::Strangers];

    fn name(self) -> &'static str {
        match self {
            Self::Nobody => "alone",
            Self::Bulk => "beside_bulk",
            Self::Connections => "beside_connections",
            Self::Strangers => "beside_strangers",
        }
    }
}

/// Who takes part.
struct Others {
    /// In the mesh, on the client's node.
    workload: Pod,
    /// Outside of it.
    stranger: Pod,
    /// What the stranger shows.
    words: [String; 3],
}

pub(super) fn run(bench: &mut Bench) -> Result {
    beside_each_other(bench)?;
    within_a_tunnel(bench)
}

/// Flows that share one tunnel, because one worker carries them all.
fn within_a_tunnel(bench: &mut Bench) -> Result {
    let mut course = Course::build_as(&[Ours], |_, _| {
        Ok(Change {
            plan: Some(Box::new(|plan, _, _| plan.set("node", "workers", "1"))),
            ..Change::default()
        })
    })?;
    let (_, kind, connections) = BULK_8;
    let order = bench.order(kind, connections);
    bench.rounds(&mut course, |course, candidate| {
        let measured = course.way(candidate)?.load(order)?;
        Ok(fairness("tunnel_fairness", &measured).into_iter().collect())
    })
}

fn beside_each_other(bench: &mut Bench) -> Result {
    let mut others = Vec::new();
    let asked = &bench.options.candidates;
    let candidates: Vec<_> = [Direct, Chain, Ours, Envoy]
        .into_iter()
        .filter(|candidate| matches!(candidate, Direct | Ours) || asked.contains(candidate))
        .collect();
    let mut course = Course::build_as(&candidates, |a, b| {
        let change = Change::with_others(a, b, 1)?;
        others.clone_from(&change.others);
        Ok(change)
    })?;
    let stranger = course.a.outsider("stranger")?;
    let ca = Ca::create(course.a.scene().dir(), "strangers-ca", "strangers.test")?;
    let others = Others {
        workload: others.swap_remove(0),
        stranger,
        words: handshake::words(&ca.leaf("stranger", &ca.identity("stranger"))?),
    };
    let (_, kind, connections) = RR_1;
    let order = bench.order(kind, connections);
    bench.rounds(&mut course, |course, candidate| {
        let way = course.way(candidate)?;
        let mut values = Vec::new();
        let mut alone = None;
        // Nobody of the others is asked for a tunnel by strangers.
        let has_strangers = matches!(candidate, Direct | Ours);
        let besides = Beside::ALL.into_iter();
        for beside in besides.filter(|one| has_strangers || !matches!(one, Beside::Strangers)) {
            // Until it is dropped, at the end of the turn.
            let _at_work = start(beside, way, &others)?;
            let p99 = way.load(order)?.p99;
            let name = beside.name();
            values.push(Value::new(format!("{name}_p99_us"), "us", p99));
            let alone = *alone.get_or_insert(p99);
            if !matches!(beside, Beside::Nobody) {
                values.push(Value::new(format!("{name}_p99_ratio"), "", p99 / alone));
            }
        }
        Ok(values)
    })
}

fn start(who: Beside, way: &Way, others: &Others) -> Result<Option<Process>> {
    let long = |(_, kind, connections): Load| Order {
        kind,
        connections,
        span: LONG,
    };
    // Others have no workloads that could be told apart.
    let another = match way.candidate {
        Ours => &others.workload,
        _ => &way.client,
    };
    match who {
        Beside::Nobody => Ok(None),
        Beside::Bulk => beside(&way.client, way.to, long(BULK_1)).map(Some),
        Beside::Connections => beside(another, way.to, long(CRR_64)).map(Some),
        Beside::Strangers => {
            let to = way.server.at(Family::V4, TUNNELS).to_string();
            others
                .stranger
                .spawn(myself()?)?
                .args(["--strangers", &to, STRANGERS_A_SECOND])
                .args(&others.words)
                .start()
                .map(Some)
        }
    }
}
