//! `helm uninstall` has every node's daemon detach before anything is deleted,
//! and names the node where that does not come to an end. Nothing of the daemon
//! is left to refuse anybody.

use std::time::Duration;

use mtls_tests::cluster::{ControlPlane, HalfSaid, Installed, Kubelets, Worker, manifest};
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::Ca;
use mtls_tests::{Doing, Error, Node, Result, ensure, ensure_eq, play, two_nodes};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

/// So long news may take on a busy machine.
const POD: Duration = Duration::from_secs(60);

#[test]
fn cluster_uninstalled() -> Result {
    play("cluster-uninstalled", |scene| {
        let (a, b) = two_nodes(scene)?;
        let wire = a.capture_wire()?;
        let plane = ControlPlane::start(&a, Kubelets::Real)?;
        let mut workers = Worker::start_both([&a, &b], &plane)?;
        let ca = Ca::create(scene.dir(), "ca", "example.org")?;
        let values = json!({"cni": {"enabled": true}, "uninstall": {"timeout": "10s"}});
        let daemons = Installed::install(&plane, &ca, &a, &values)?;
        plane.apply_file(&manifest("shop.yaml"))?;
        for what in ["deployment/web", "deployment/client"] {
            plane.wait("shop", what, "Available")?;
        }
        plane.wait("other", "pod/stranger", "Ready")?;
        let web = |node| plane.address("shop", "app=web", node);
        let (at_a, at_b) = (web(&a)?, web(&b)?);
        let [on_a, on_b] = [&at_a, &at_b].map(|at| format!("http://{at}:8080/"));
        let enforced = || {
            for (url, node) in [(&on_a, "a"), (&on_b, "b")] {
                plane.refuses("other", "stranger", url)?;
                let said = plane.ask("shop", "deploy/client", url)?;
                ensure_eq(said, format!("web on {node}"), "who answers")?;
            }
            Ok(())
        };
        enforced()?;
        wire.finish()?.ensure_only_tls()?;

        // Carried by a's daemon, and half said when that detaches.
        let open = HalfSaid::start(&plane, &at_a)?;

        // A daemon that cannot answer, on a node whose kubelet does not notice.
        plane.kubectl(&["cordon", "b"])?;
        let of_a = daemons.pid(&a)?;
        let of_b = daemons.pid(&b)?;
        workers[1].stop_kubelet()?;
        signal(of_b, Signal::SIGSTOP)?;
        let said = match daemons.uninstall() {
            Err(Error::Command { output, .. }) => output,
            other => {
                return Err(Error::Unexpected(format!("b is not missed: {other:?}")));
            }
        };
        for line in [
            "a: detached",
            "1 node not detached within 10 s:\n  b: the daemon of pod mtls-daemon-",
            "helm uninstall mtls-daemon -n mtls-daemon --no-hooks",
        ] {
            ensure(said.contains(line), || {
                format!("helm uninstall did not say {line:?}: {said}")
            })?;
        }
        // Nothing was deleted, and whoever has detached has.
        ensure_eq(is_pinned(&workers[0])?, false, "whether a has pins")?;
        ensure_eq(is_pinned(&workers[1])?, true, "whether b has pins")?;
        let metrics = daemons.metrics(&a)?;
        for (name, label) in [
            ("mtls_bpf_programs_attached", None),
            ("mtls_veth_gates", Some(("state", "armed"))),
        ] {
            let labels: Vec<_> = label.into_iter().collect();
            ensure_eq(metrics.count(name, &labels), 0, name)?;
        }
        ensure_eq(
            plane.ask("other", "stranger", &on_a)?,
            "web on a".to_owned(),
            "a",
        )?;
        plane.refuses("other", "stranger", &on_b)?;
        open.finish(&plane, "web on a")?;
        a_killed_daemon_stays_detached(&plane, &daemons, &a, of_a)?;
        a_successor_stays_detached(&plane, &daemons, &a)?;
        ensure_eq(
            plane.ask("other", "stranger", &on_a)?,
            "web on a".to_owned(),
            "a",
        )?;

        // It is to stay after all.
        signal(of_b, Signal::SIGCONT)?;
        workers[1].start_kubelet()?;
        plane.kubectl(&["uncordon", "b"])?;
        daemons.roll_back(1)?;
        wait_for(
            Deadline::after(POD),
            || "both nodes to enforce again",
            || {
                let ready =
                    [&a, &b].map(|node| daemons.readiness(node).is_ok_and(|(code, _)| code == 200));
                Ok((ready == [true, true] && enforced().is_ok()).then_some(()))
            },
        )?;

        // Every daemon answers.
        let said = daemons.uninstall()?;
        for line in ["a: detached", "b: detached", "2 nodes detached"] {
            ensure(said.contains(line), || {
                format!("helm uninstall did not say {line:?}: {said}")
            })?;
        }
        for (namespace, from) in [("other", "stranger"), ("shop", "deploy/client")] {
            ensure_eq(
                plane.ask(namespace, from, &on_a)?,
                "web on a".to_owned(),
                from,
            )?;
            ensure_eq(
                plane.ask(namespace, from, &on_b)?,
                "web on b".to_owned(),
                from,
            )?;
        }
        for worker in &workers {
            ensure_eq(is_pinned(worker)?, false, "whether there are pins")?;
            let plugins = worker.network_plugins()?;
            ensure_eq(plugins, vec!["bridge".to_owned()], "the network plug-ins")?;
        }
        let left = plane.get(&[
            "job,pod,serviceaccount,role,rolebinding,daemonset",
            "-n",
            "mtls-daemon",
        ])?;
        let left: Vec<&str> = left["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|object| object["metadata"]["name"].as_str())
            .filter(|name| *name != "default")
            .collect();
        ensure(left.is_empty(), || format!("the release left {left:?}"))
    })
}

/// Nobody tells a daemon what the one before it was told.
fn a_killed_daemon_stays_detached(
    plane: &ControlPlane,
    daemons: &Installed<'_>,
    node: &Node,
    pid: Pid,
) -> Result {
    plane.api_server()?.freeze()?;
    signal(pid, Signal::SIGKILL)?;
    wait_for(
        Deadline::after(POD),
        || "the daemon to be gone",
        || Ok(kill(pid, None).is_err().then_some(())),
    )?;
    let detached = is_detached(daemons, node, || true);
    plane.api_server()?.thaw()?;
    detached
}

/// A daemon of another pod, which finds the DaemonSet as the first one left it.
fn a_successor_stays_detached(
    plane: &ControlPlane,
    daemons: &Installed<'_>,
    node: &Node,
) -> Result {
    let before = daemons.pod_on(node)?;
    plane.kubectl(&["delete", "pod", "-n", "mtls-daemon", &before])?;
    // Its predecessor is gone, and takes no questions.
    let is_another = || daemons.pod_on(node).is_ok_and(|pod| pod != before);
    is_detached(daemons, node, is_another)
}

/// From its beginning on.
fn is_detached(daemons: &Installed<'_>, node: &Node, is_it: impl Fn() -> bool) -> Result {
    let (code, said) = wait_for(
        Deadline::after(POD),
        || "the successor to say how it is",
        || {
            let answer = daemons.readiness(node).ok().filter(|_| is_it());
            Ok(answer.filter(|(_, said)| !said.contains("starting")))
        },
    )?;
    ensure(code == 503 && said.contains("detached, for"), || {
        format!("a successor of a daemon that was detached says {code}: {said}")
    })
}

fn is_pinned(worker: &Worker) -> Result<bool> {
    let listed = worker.spawn("ls")?.arg("/sys/fs/bpf").output()?.success()?;
    Ok(listed.contains("mtls-daemon"))
}

fn signal(pid: Pid, signal: Signal) -> Result {
    kill(pid, signal).doing(|| format!("sending {signal} to {pid}"))
}
