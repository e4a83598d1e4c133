//! `check`: looks at the node and its cluster, asks every workload's source
//! once, as the daemon would, and says what they lack.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::cni::install::Place;
use crate::config;
use crate::identity::{IdentityStore, Timings, WorkloadIdentity, certificate};
use crate::kernel::{self, Foreign, VethGate};
use crate::kubernetes::{self, Examined};

use super::arguments::Check;
use super::humane::count;
use super::table::table;
use super::{Exit, complain, fail, say, wait_for, with_sources};

/// Authorities have limits of their own, which are shorter.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn command(what: &Check) -> Exit {
    let config = match config::read(&what.config) {
        Ok(loaded) => loaded.config,
        Err(mistakes) => {
            complain(&mistakes.to_string());
            return fail(&count(mistakes.list.len(), "mistake"));
        }
    };
    let other = what.kubeconfig.as_deref();
    let asked = wait_for(async {
        // Whoever looks from elsewhere is on no node.
        let of_node = match other {
            None => node(&config),
            Some(_) => Examined::default(),
        };
        let of_cluster = match &config.kubernetes {
            Some(kubernetes) => Box::pin(kubernetes::examine(kubernetes, &config, other)).await,
            None => Examined::default(),
        };
        for examined in [&of_node, &of_cluster] {
            tell(examined);
        }
        let faults = of_node.faults.len() + of_cluster.faults.len();
        if other.is_some() {
            return (None, faults);
        }
        let workloads = config.workloads.iter().chain(one_of_each(&of_cluster.here));
        (Some(Box::pin(ask_all(&config, workloads)).await), faults)
    });
    match asked {
        Ok((Some(asked), faults)) => told(&asked, faults),
        Ok((None, faults)) => judged(Exit::Done, faults),
        Err(error) => fail(&format!("starting a runtime: {error}")),
    }
}

/// What the daemon would find where this runs.
fn node(config: &config::Config) -> Examined {
    let (cgroup, pins) = (config.kernel.cgroup.as_deref(), &config.kernel.pins);
    let faults = kernel::lacks(cgroup, pins);
    Examined {
        faults: faults.iter().map(|error| with_sources(error)).collect(),
        warnings: lacks(config),
        ..Examined::default()
    }
}

fn tell(examined: &Examined) {
    let Examined {
        faults,
        warnings,
        notes,
        ..
    } = examined;
    for (kind, texts) in [("fault", faults), ("warning", warnings), ("note", notes)] {
        for text in texts {
            complain(&format!("{kind}: {text}"));
        }
    }
}

/// Pods of one account have the same certificate.
fn one_of_each(pods: &[config::Workload]) -> impl Iterator<Item = &config::Workload> {
    let mut identities = HashSet::new();
    pods.iter()
        .filter(move |pod| identities.insert(&pod.spiffe_id))
}

/// What the node could do better with, each with its remedy.
fn lacks(config: &config::Config) -> Vec<String> {
    let mut lacks = Vec::new();
    if config.kernel.veth_gate == config::VethGate::On && !kernel::has_tcx() {
        lacks.push(format!(
            "kernel.veth_gate: this kernel has no tcx, so packet sockets of workloads are not stopped at their veths: {}",
            VethGate::NoTcx.remedy()
        ));
    }
    match kernel::foreign(config.kernel.cgroup.as_deref(), &config.kernel.pins) {
        Ok(found) => lacks.extend(found.iter().map(of_others)),
        Err(error) => lacks.push(format!(
            "kernel: who else has programs at the hooks cannot be seen: {error}"
        )),
    }
    if config.cni.enabled {
        match Place::new(&config.cni).is_in_force() {
            Ok(true) => {}
            Ok(false) => lacks.push(format!(
                "cni: the first network configuration in {} has not this daemon's entry: it adds it when it runs; if it does run, `mtls-daemon status` says what keeps it from that",
                config.cni.conf_dir.display()
            )),
            Err(error) => lacks.push(format!("cni: {error}")),
        }
    }
    lacks
}

fn of_others(program: &Foreign) -> String {
    let Foreign {
        hook, at, name, id, ..
    } = program;
    format!(
        "{} at {at}: program {name} (id {id}) of somebody else runs there, too: {}",
        hook.word(),
        program.remedy()
    )
}

/// What came of a workload's source.
struct Asked {
    workload: String,
    source: &'static str,
    outcome: Result<String, String>,
}

async fn ask_all(
    config: &config::Config,
    workloads: impl Iterator<Item = &config::Workload>,
) -> Vec<Asked> {
    let store = IdentityStore::new(config.identity.clone(), Clock::system(), Timings::default());
    // All at once, and then for each in turn: one that is slow holds up none.
    let enrolled: Vec<_> = workloads
        .map(|workload| (workload, store.enrol(workload)))
        .collect();
    let mut asked = Vec::new();
    for (workload, identity) in enrolled {
        let (source, outcome) = match identity {
            Ok(identity) => answer(identity).await,
            Err(error) => ("none", Err(error.to_string())),
        };
        asked.push(Asked {
            workload: workload.name.clone(),
            source,
            outcome,
        });
    }
    asked
}

async fn answer(
    mut identity: watch::Receiver<WorkloadIdentity>,
) -> (&'static str, Result<String, String>) {
    let source = identity.borrow().source;
    let answered = |state: &WorkloadIdentity| state.svid.is_some() || state.failure.is_some();
    let waiting = tokio::time::timeout(PATIENCE, identity.wait_for(answered));
    let outcome = match waiting.await {
        Ok(Ok(state)) => match (&state.svid, &state.failure) {
            (_, Some(failure)) => Err(failure.clone()),
            (Some(svid), None) => Ok(format!(
                "{}, until {}",
                svid.id(),
                certificate::shown(svid.good_until())
            )),
            (None, None) => Err("nothing came".to_owned()),
        },
        Ok(Err(_)) => Err("its source gave up".to_owned()),
        Err(_elapsed) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    };
    (source, outcome)
}

fn told(asked: &[Asked], mut faults: usize) -> Exit {
    let rows = asked.iter().map(|one| {
        let outcome = match &one.outcome {
            Ok(certificate) => format!("good: {certificate}"),
            Err(_) => "fault, see below".to_owned(),
        };
        vec![one.workload.clone(), one.source.to_owned(), outcome]
    });
    let said = say(&table(&["WORKLOAD", "SOURCE", "CERTIFICATE"], rows));
    for one in asked {
        if let Err(fault) = &one.outcome {
            complain(&format!("{}: {fault}", one.workload));
            faults += 1;
        }
    }
    judged(said, faults)
}

fn judged(said: Exit, faults: usize) -> Exit {
    match faults {
        0 => said,
        faults => fail(&count(faults, "fault")),
    }
}
