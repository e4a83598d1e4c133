//! `status`: the node at a glance, and what to do about what is wrong.

use std::fmt::Write as _;

use crate::admin::client;
use crate::admin::reply::StatusReply;
use crate::admin::view::{NodeStatus, Phase, WorkloadState, WorkloadStatus};

use super::arguments::Ask;
use super::humane::{count, duration, time, until};
use super::table::table;
use super::{Exit, ask, socket};

pub(super) fn command(asked: &Ask) -> Exit {
    let socket = socket(&asked.socket);
    ask(
        asked.output,
        client::status(&socket),
        show,
        |reply| match reply.ready.good() && reply.healthy.good() {
            true => Exit::Done,
            false => Exit::Failed,
        },
    )
}

fn show(reply: &StatusReply) -> String {
    let mut out = String::new();
    let status = &reply.status;
    let up = reply.time.duration_since(status.started);
    let _ = writeln!(
        out,
        "node {}, mtls-daemon {}, pid {}, up {}",
        status.node,
        status.version,
        status.pid,
        duration(up.unwrap_or_default())
    );
    let phase = match &status.phase {
        Phase::Starting => "starting".to_owned(),
        Phase::Serving => "serving".to_owned(),
        Phase::Detached { .. } => "detached".to_owned(),
        Phase::Draining { deadline } => format!("draining, ends {}", until(*deadline, reply.time)),
    };
    let word = |good, word: &str| match good {
        true => word.to_owned(),
        false => format!("NOT {}", word.to_uppercase()),
    };
    let ready = word(reply.ready.good(), "ready");
    let healthy = word(reply.healthy.good(), "healthy");
    let _ = writeln!(out, "state    {phase}, {ready}, {healthy}");
    let _ = writeln!(
        out,
        "config   {}, loaded {}",
        status.config.path.display(),
        time(status.config.loaded)
    );
    let _ = writeln!(out, "hooks    {}", hooks(reply));
    let threads = reply.threads.iter();
    let threads: Vec<&str> = threads.map(|thread| thread.name.as_str()).collect();
    let _ = writeln!(out, "threads  {}", threads.join(", "));
    if let Some(descriptors) = &reply.descriptors {
        let (used, most) = (descriptors.used, descriptors.most);
        let _ = writeln!(out, "files    {used} of {most} descriptors");
    }
    let bundles: Vec<String> = status
        .trust_bundles
        .iter()
        .map(|bundle| format!("{} ({})", bundle.trust_domain, count(bundle.roots, "root")))
        .collect();
    let _ = writeln!(out, "trust    {}", or_none(&bundles.join(", ")));
    let _ = writeln!(out, "revoked  {}", revocation(status));
    let _ = writeln!(
        out,
        "mesh     {}, {}, {}",
        count(status.workloads.len(), "workload"),
        count(status.peers, "peer"),
        count(status.services, "service")
    );
    if let Some(cluster) = &status.cluster {
        let known = match cluster.known {
            true => format!("known, {} on this node", count(cluster.pods, "pod")),
            false => "not known yet".to_owned(),
        };
        let policies = match cluster.policies.len() {
            0 => String::new(),
            some => format!(", {} for them", count(some, "Istio object")),
        };
        let _ = writeln!(out, "cluster  {known}{policies}");
    }
    if !status.workloads.is_empty() {
        out.push('\n');
        out.push_str(&workloads(reply));
    }
    problems(reply, &mut out);
    out
}

fn hooks(reply: &StatusReply) -> String {
    let missing: Vec<&str> = reply
        .hooks
        .iter()
        .filter(|hook| !hook.attached)
        .map(|hook| hook.hook.as_str())
        .collect();
    let attached = reply.hooks.len() - missing.len();
    match missing.as_slice() {
        [] => format!("{attached} attached"),
        _ => format!("{attached} attached, MISSING: {}", missing.join(", ")),
    }
}

fn revocation(status: &NodeStatus) -> String {
    let asked = status.revocation.iter().map(|one| {
        let lists = count(one.lists.len(), "list");
        format!("{} ({}, {lists})", one.trust_domain, one.policy)
    });
    match asked.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => {
            "no lists configured: certificates count until they end".to_owned()
        }
        some => some,
    }
}

fn workloads(reply: &StatusReply) -> String {
    const HEAD: [&str; 8] = [
        "WORKLOAD",
        "STATE",
        "MODE",
        "IDENTITY",
        "ADDRESSES",
        "CERTIFICATE ENDS",
        "CONNECTIONS",
        "PLACE",
    ];
    let rows = reply.status.workloads.iter().map(|workload| {
        let addresses: Vec<String> = workload.addresses.iter().map(ToString::to_string).collect();
        let ends = workload
            .svid
            .as_ref()
            .map(|svid| until(svid.not_after, reply.time));
        vec![
            workload.name.clone(),
            state(workload).to_owned(),
            workload.mode.to_string(),
            workload.identity.to_string(),
            addresses.join(", "),
            ends.unwrap_or_else(|| "none".to_owned()),
            workload.connections.to_string(),
            workload.place.to_string(),
        ]
    });
    table(&HEAD, rows)
}

fn state(workload: &WorkloadStatus) -> &'static str {
    match workload.state {
        WorkloadState::Absent { .. } => "absent",
        WorkloadState::Waiting { .. } => "waiting",
        WorkloadState::Ready => "ready",
        WorkloadState::Failed { .. } => "FAILED",
        WorkloadState::NotEnrolled { .. } => "NOT ENROLLED",
    }
}

/// Everything that is wrong, each with what to do where we know it.
fn problems(reply: &StatusReply, out: &mut String) {
    let mut lines: Vec<String> = reply.healthy.problems.clone();
    lines.extend(reply.ready.problems.iter().cloned());
    for workload in &reply.status.workloads {
        if let WorkloadState::Failed { reason, detail }
        | WorkloadState::NotEnrolled { reason, detail } = &workload.state
        {
            lines.push(format!("workload {}: {reason}: {detail}", workload.name));
            lines.push(format!("  {}", reason.remedy()));
        }
        if let Some(error) = &workload.renewal_error {
            lines.push(format!(
                "workload {}: its certificate is not renewed: {error}",
                workload.name
            ));
        }
    }
    if let Some(error) = &reply.status.plugin_error {
        lines.push(format!("the network plug-in is not in its place: {error}"));
    }
    for displaced in &reply.status.displaced {
        let inode = displaced
            .netns_inode
            .map_or_else(|| "?".to_owned(), |n| n.to_string());
        lines.push(format!(
            "network namespace {inode} is at no workload's place any more: refused"
        ));
        lines.push("  `lsns -t net` shows what runs there; see docs/operations.md".to_owned());
    }
    for policy in reply.status.cluster.iter().flat_map(|it| &it.policies) {
        let (kind, name) = (policy.kind.word(), &policy.name);
        let told = policy.complaints.iter();
        lines.extend(told.map(|it| format!("{kind} {name}: {it}")));
    }
    if let Some(error) = &reply.status.config.reload_error {
        lines.push(
            "the last reload was refused, the configuration before it is in force:".to_owned(),
        );
        lines.extend(error.lines().map(|line| format!("  {line}")));
    }
    let waiting = &reply.status.config.restart_needed;
    if !waiting.is_empty() {
        lines.push(format!(
            "changed, and waits for a restart: {}",
            waiting.join(", ")
        ));
    }
    if !lines.is_empty() {
        out.push_str("\nto look at:\n");
        for line in lines {
            let _ = writeln!(out, "  {line}");
        }
    }
}

fn or_none(text: &str) -> &str {
    match text {
        "" => "none",
        text => text,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::admin::readiness::{self, Verdict};
    use crate::admin::reply::{DescriptorsReply, HookReply, SCHEMA, ThreadReply};
    use crate::admin::samples;
    use crate::admin::view::Displaced;

    fn reply() -> StatusReply {
        let status = samples::status();
        StatusReply {
            schema: SCHEMA,
            time: status.started + Duration::from_secs(1000),
            status,
            ready: Verdict::default(),
            healthy: Verdict::default(),
            hooks: vec![HookReply {
                hook: "connect4".to_owned(),
                attached: true,
            }],
            threads: vec![ThreadReply {
                name: "control".to_owned(),
                silent: Duration::ZERO,
            }],
            descriptors: Some(DescriptorsReply {
                used: 30,
                most: 65_536,
            }),
        }
    }

    #[test]
    fn a_good_node() {
        assert_eq!(
            show(&reply()),
            "\
node node-a, mtls-daemon 0.1.0, pid 4711, up 16m 40s
state    serving, ready, healthy
config   /etc/mtls-daemon/config.toml, loaded 2027-01-15T08:00:00Z
hooks    1 attached
threads  control
files    30 of 65536 descriptors
trust    example.org (1 root)
revoked  no lists configured: certificates count until they end
mesh     1 workload, 2 peers, 1 service

WORKLOAD  STATE  MODE    IDENTITY                  ADDRESSES          CERTIFICATE ENDS  CONNECTIONS  PLACE
web       ready  strict  spiffe://example.org/web  10.0.1.4, fd00::4  in 43m 20s        3            netns /run/netns/web
"
        );
    }

    #[test]
    fn a_node_with_trouble_says_what_to_do() {
        let mut reply = reply();
        reply.hooks[0].attached = false;
        reply.status.workloads.push(samples::failed());
        reply.status.displaced = vec![Displaced {
            netns_cookie: 4711,
            netns_inode: Some(4_026_532_000),
        }];
        reply.status.config.restart_needed = vec!["metrics.listen".to_owned()];
        reply.status.config.reload_error = Some("c.toml:1:1: x\nc.toml:2:1: y".to_owned());
        reply.ready = readiness::ready(&reply.status, &[], reply.time);
        let shown = show(&reply);
        for expected in [
            "state    serving, NOT READY, healthy\n",
            "hooks    0 attached, MISSING: connect4\n",
            "\ncache     FAILED ",
            "\nto look at:\n  no hook is attached\n",
            "  workload cache: place_not_found: unit cache.service is not running\n    The network namespace",
            "    c.toml:2:1: y\n",
            "  network namespace 4026532000 is at no workload's place any more: refused\n",
            "  changed, and waits for a restart: metrics.listen\n",
        ] {
            assert!(shown.contains(expected), "{expected:?} is not in\n{shown}");
        }
    }
}
