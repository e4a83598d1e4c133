//! While the API server is away: what is known goes on, and what nobody can be
//! asked about waits for it.

use std::time::Duration;

use mtls_tests::cluster::{ControlPlane, Worker};
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::{Doing, Error, Node, Result, ensure, ensure_eq};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::{POD, Steady, answers_as, pods, uptime};

/// From the API server's return to what waited for it.
const BACK: Duration = Duration::from_secs(180);

/// Also where a kubelet starts a container or a pod's sandbox again, and where
/// it is the daemon that starts again.
pub(super) fn the_api_server_is_away(
    plane: &mut ControlPlane,
    [a, b]: &[Worker; 2],
    steady: &Steady<'_>,
    node_b: &Node,
    daemon: Pid,
) -> Result {
    let web = pods(plane, "app=web", node_b)?;
    let uid = web[0]["metadata"]["uid"].as_str().unwrap_or_default();
    let client = pods(plane, "app=client", a.node())?;
    let client = container(&client[0])?;
    // Both daemons are new: they know whom they have asked about since.
    let from = uptime()?;
    for node in ["a", "b"] {
        steady.hears(&format!("web on {node}"), from)?;
    }
    plane.stop_api_server()?;
    let from = uptime()?;
    steady.none_failed(from)?;
    restarted(b, uid, "httpd")?;
    // From the same namespace, with nobody to ask who that is.
    steady.hears("web on b", uptime()?)?;
    steady.none_failed(uptime()?)?;
    // Of the client's own node: the next one starts from what this one has saved.
    kill(daemon, Signal::SIGKILL).doing(|| "killing a daemon")?;
    wait_for(
        Deadline::after(POD),
        || "the daemon to be gone",
        || Ok(kill(daemon, None).is_err().then_some(())),
    )?;
    steady.answers(uptime()?)?;

    // A pod that only its kubelet knows does not begin.
    b.start_static_pod("static", &static_pod())?;

    // A pod that is known has another address, of which nobody can tell whose it is.
    let before = b.processes(uid, "httpd");
    let old = address_in(b, &before)?;
    restarted(b, uid, "infinity")?;
    let new = wait_for(
        Deadline::after(POD),
        || "the kubelet to make the pod again",
        || {
            let now = b.processes(uid, "httpd");
            let is_new = !now.is_empty() && now != before;
            Ok(is_new.then(|| address_in(b, &now).ok()).flatten())
        },
    )?;
    ensure(new != old, || format!("it has {old} again"))?;
    let ask = format!("timeout 5 wget -qO- http://{new}:8080/ || echo refused");
    let said = a.run_in(&client, &["sh", "-c", &ask])?;
    ensure_eq(
        said.trim(),
        "refused",
        "what is heard at an unknown address",
    )?;
    refused_at(a, &format!("{new}:8080"), "unknown_destination")?;
    steady.hears("web on a", uptime()?)?;

    wait_for(
        Deadline::after(POD),
        || "the network plug-in to refuse the pod of the kubelet's own",
        || {
            let log = b.runtime_log()?;
            let mut lines = log.lines().filter(|line| line.contains("static-b"));
            let refused = lines.any(|line| line.contains("the API server has not told"));
            Ok(refused.then_some(()))
        },
    )?;
    ensure(b.said("shop", "static-b", "httpd").is_err(), || {
        "a pod has begun of which nobody knows who it is".to_owned()
    })?;

    plane.start_api_server()?;
    // Whoever tells it has had its pauses doubled meanwhile: kubelet, controllers.
    wait_for(
        Deadline::after(BACK),
        || "the Service to lead to where that pod is now",
        || Ok(leads_to(plane, &new)?.then_some(())),
    )?;
    // And then nothing of ours waits for long.
    steady.hears("web on b", uptime()?)?;
    wait_for(
        Deadline::after(BACK),
        || "the pod of the kubelet's own",
        || Ok(answers_as(plane, "static-b", "static").ok()),
    )
}

/// By the access log of the daemon that runs there.
fn refused_at(worker: &Worker, at: &str, reason: &str) -> Result {
    let log = worker.said("mtls-daemon", "mtls-daemon", "mtls-daemon")?;
    let events = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let at_it = events.filter(|it: &Value| it["original_dst"] == at);
    let reasons: Vec<Value> = at_it.map(|it| it["reason"].clone()).collect();
    let is_it = !reasons.is_empty() && reasons.iter().all(|it| *it == reason);
    ensure(is_it, || format!("{at}: {reasons:?}, not {reason}"))
}

/// Whether the Service `web` does, as the API server tells.
fn leads_to(plane: &ControlPlane, address: &str) -> Result<bool> {
    let label = "kubernetes.io/service-name=web";
    let slices = plane.get(&["endpointslices", "-n", "shop", "-l", label])?;
    let slices = slices["items"].as_array().into_iter().flatten();
    let mut endpoints =
        slices.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    Ok(endpoints.any(|it| it["addresses"][0] == address && it["conditions"]["ready"] == true))
}

/// Kills a process of a pod; returns when there is another.
fn restarted(worker: &Worker, uid: &str, word: &str) -> Result {
    let before = worker.processes(uid, word);
    let [process] = before.as_slice() else {
        return Err(Error::Unexpected(format!("{word} on b: {before:?}")));
    };
    kill(*process, Signal::SIGKILL).doing(|| format!("killing {word}"))?;
    wait_for(
        Deadline::after(POD),
        || "the kubelet to start it again",
        || {
            let now = worker.processes(uid, word);
            Ok((!now.is_empty() && now != before).then_some(()))
        },
    )
}

/// Of the pod that a process belongs to.
fn address_in(worker: &Worker, of: &[Pid]) -> Result<String> {
    let pid = of.first().map_or(0, |pid| pid.as_raw()).to_string();
    let words = [
        "-t", &pid, "-n", "ip", "-json", "-4", "address", "show", "eth0",
    ];
    let said = worker.spawn("nsenter")?.args(words).output()?.success()?;
    let unreadable = |why: String| Error::Unreadable {
        what: format!("a pod's addresses: {said}"),
        why,
    };
    let links: Value =
        serde_json::from_str(&said).map_err(|error| unreadable(error.to_string()))?;
    let address = links[0]["addr_info"][0]["local"].as_str();
    address.map_or_else(
        || Err(unreadable("none".to_owned())),
        |it| Ok(it.to_owned()),
    )
}

/// By which the runtime knows a pod's first one.
fn container(pod: &Value) -> Result<String> {
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str();
    let id = id.and_then(|id| id.strip_prefix("containerd://"));
    id.map(str::to_owned)
        .ok_or_else(|| Error::Unexpected(format!("no container: {}", pod["status"])))
}

fn static_pod() -> Value {
    let serve = "echo static > /www/index.html; exec httpd -f -p 8080 -h /www";
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "static", "namespace": "shop"},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "httpd", "image": "local.test/app:1", "command": ["sh", "-c", serve],
            }],
        },
    })
}
