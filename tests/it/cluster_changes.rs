//! A cluster in motion, under a client that never stops asking: Deployments
//! grow, shrink and are replaced, pods end with and without grace, an address
//! goes to another account's pod, the daemons are rolled, the API server is
//! away, a node is cut off. Nobody is taken for somebody else, and nothing is in clear.

use std::fs;
use std::time::Duration;

use mtls_tests::cluster::{ControlPlane, HalfSaid, Installed, Kubelets, Worker, manifest};
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::Ca;
use mtls_tests::{Doing, Error, Family, Node, Result, ensure, ensure_eq, play, two_nodes};
use serde_json::{Value, json};

mod away;

/// So long news may take on a busy machine.
const POD: Duration = Duration::from_secs(60);
/// A CronJob's minute, and what its pod needs.
const CRON: Duration = Duration::from_secs(150);

#[test]
fn cluster_changes() -> Result {
    play("cluster-changes", |scene| {
        let (a, b) = two_nodes(scene)?;
        let wire = a.capture_wire()?;
        let mut plane = ControlPlane::start(&a, Kubelets::Real)?;
        let workers = Worker::start_both([&a, &b], &plane)?;
        let ca = Ca::create(scene.dir(), "ca", "example.org")?;
        let values = json!({"cni": {"enabled": true}});
        let daemons = Installed::install(&plane, &ca, &a, &values)?;
        for file in ["shop.yaml", "changes.yaml"] {
            plane.apply_file(&manifest(file))?;
        }
        for (what, condition) in [
            ("deployment/web", "Available"),
            ("deployment/client", "Available"),
            ("deployment/steady", "Available"),
            ("pod/self", "Ready"),
            ("pod/store-0", "Ready"),
            ("pod/store-1", "Ready"),
        ] {
            plane.wait("shop", what, condition)?;
        }
        let steady = Steady(&workers[0]);

        // Pods that have a moment to end are not missed.
        steady.answers(uptime()?)?;
        let grace = json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 4}}}});
        let grace = format!("--patch={grace}");
        plane.kubectl(&["patch", "-n", "shop", "deployment/web", &grace])?;
        web_settles(&plane, 2)?;
        for (replicas, words) in [
            (
                2,
                &["rollout", "restart", "-n", "shop", "deployment/web"][..],
            ),
            (
                4,
                &["scale", "-n", "shop", "deployment/web", "--replicas=4"],
            ),
            (
                2,
                &["scale", "-n", "shop", "deployment/web", "--replicas=2"],
            ),
        ] {
            let from = uptime()?;
            plane.kubectl(words)?;
            web_settles(&plane, replicas)?;
            steady
                .none_failed(from)
                .map_err(|error| Error::Unexpected(format!("{words:?}: {error}")))?;
        }

        // Who shrinks it does not look where the others are; the scheduler does.
        plane.kubectl(&["delete", "pods", "-n", "shop", "-l", "app=web"])?;
        web_settles(&plane, 2)?;

        // Until it ends a pod that is to end goes on with what it has begun.
        let (name, address) = web_on(&plane, &b)?;
        let open = HalfSaid::start(&plane, &address)?;
        let words = [
            "delete",
            "pod",
            "-n",
            "shop",
            &name,
            "--grace-period=30",
            "--wait=false",
        ];
        plane.kubectl(&words)?;
        wait_for(
            Deadline::after(POD),
            || "another pod in its place",
            || Ok(web_on(&plane, &b).ok().filter(|(new, _)| *new != name)),
        )?;
        open.finish(&plane, "web on b")?;
        plane.kubectl(&[
            "delete",
            "pod",
            "-n",
            "shop",
            &name,
            "--force",
            "--grace-period=0",
        ])?;

        an_address_changes_hands(&plane, &workers[1], &daemons, &a)?;

        // By their own addresses, also under the same name anew.
        for name in ["store-0", "store-1"] {
            answers_as(&plane, name, name)?;
        }
        plane.kubectl(&["delete", "pod", "-n", "shop", "store-0"])?;
        wait_for(
            Deadline::after(POD),
            || "store-0 to come back",
            || Ok(answers_as(&plane, "store-0", "store-0").ok()),
        )?;
        let said = plane.ask("shop", "pod/self", "http://10.96.0.81/")?;
        ensure_eq(said, "self".to_owned(), "what a pod's Service tells itself")?;

        // Whoever is put into a pod is that pod.
        let (_, web) = web_on(&plane, &a)?;
        let client = pods(&plane, "app=client", &a)?;
        let said = aside(&plane, "shop", name_of(&client[0]), &web)?;
        ensure_eq(
            said.as_str(),
            "web on a",
            "what a container put into a pod hears",
        )?;
        let said = aside(&plane, "other", "stranger", &web)?;
        ensure(!said.contains("web on"), || {
            format!("a stranger heard {said}")
        })?;

        wait_for(
            Deadline::after(CRON),
            || "the CronJob's Job to end",
            || {
                let jobs = plane.get(&["jobs", "-n", "shop"])?;
                let mut jobs = jobs["items"].as_array().into_iter().flatten();
                let is_done = |job: &Value| {
                    job["metadata"]["ownerReferences"][0]["kind"] == "CronJob"
                        && job["status"]["succeeded"] == 1
                };
                Ok(jobs.any(is_done).then_some(()))
            },
        )?;
        only_right_identities(&daemons, &a, &b)?;

        the_daemons_are_rolled(&daemons, &steady)?;
        let of_a = daemons.pid(&a)?;
        away::the_api_server_is_away(&mut plane, &workers, &steady, &b, of_a)?;
        a_daemon_is_cut_off(&steady, &a, &b)?;
        let daemons = Installed::found(&plane);
        only_right_identities(&daemons, &a, &b)?;
        wire.finish()?.ensure_only_tls()?;

        // Of all that nothing happens to whoever is not labelled.
        let elsewhere = plane.get(&["pod", "-n", "other", "elsewhere"])?;
        let said = plane.ask("other", "stranger", &url(&elsewhere))?;
        ensure_eq(said, "elsewhere".to_owned(), "whoever is left alone")
    })
}

/// Who asks the Service `web` all the time, on node a.
struct Steady<'a>(&'a Worker);

impl Steady<'_> {
    /// What it has heard since the machine had been up for so many seconds, and
    /// when.
    fn since(&self, from: f64) -> Result<Vec<(f64, String)>> {
        let log = self.0.said("shop", "steady", "asks")?;
        let lines = log.lines().filter_map(|line| {
            let (up, said) = line.split_once(' ')?;
            Some((up.parse::<f64>().ok()?, said.to_owned()))
        });
        Ok(lines.filter(|(up, _)| *up > from).collect())
    }

    /// Waits until it has heard something that it has asked for since then.
    fn answers(&self, from: f64) -> Result {
        self.hears("web on", from)
    }

    /// And that begins so.
    fn hears(&self, what: &str, from: f64) -> Result {
        wait_for(
            Deadline::after(POD),
            || format!("{what:?} to be heard"),
            || {
                // The first may have been asked for before.
                let heard = self.since(from)?;
                let mut heard = heard.iter().skip(1);
                Ok(heard.any(|(_, said)| said.starts_with(what)).then_some(()))
            },
        )
    }

    fn none_failed(&self, from: f64) -> Result {
        self.answers(uptime()?)?;
        let heard = self.since(from)?;
        let all = heard.len();
        // The first may have been asked for before.
        let failed = heard.into_iter().skip(1);
        let failed = failed.filter(|(_, said)| !said.starts_with("web on"));
        let failed: Vec<_> = failed.collect();
        ensure(failed.is_empty(), || {
            format!("of {all} since {from} went unanswered: {failed:?}")
        })
    }
}

/// Seconds.
fn uptime() -> Result<f64> {
    let text = fs::read_to_string("/proc/uptime").doing(|| "reading the machine's uptime")?;
    let first = text.split(' ').next().unwrap_or_default();
    first
        .parse()
        .map_err(|error| Error::Unexpected(format!("{error}: {text}")))
}

/// Until so many pods of it are ready, and no other is left.
fn web_settles(plane: &ControlPlane, replicas: usize) -> Result {
    plane.wait_until_rolled_out("shop", "deployment/web")?;
    wait_for(
        Deadline::after(POD),
        || format!("{replicas} pods of web"),
        || {
            let pods = plane.get(&["pods", "-n", "shop", "-l", "app=web"])?;
            let count = pods["items"].as_array().map_or(0, Vec::len);
            Ok((count == replicas).then_some(()))
        },
    )
}

fn pods(plane: &ControlPlane, label: &str, node: &Node) -> Result<Vec<Value>> {
    let on = format!("--field-selector=spec.nodeName={}", node.name());
    let pods = plane.get(&["pods", "-n", "shop", "-l", label, &on])?;
    Ok(pods["items"].as_array().cloned().unwrap_or_default())
}

fn name_of(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().unwrap_or_default()
}

fn ip_of(pod: &Value) -> &str {
    pod["status"]["podIP"].as_str().unwrap_or_default()
}

fn url(pod: &Value) -> String {
    format!("http://{}:8080/", ip_of(pod))
}

/// Name and address of the pod of web that is ready on the node, and is to stay.
fn web_on(plane: &ControlPlane, node: &Node) -> Result<(String, String)> {
    let pods = pods(plane, "app=web", node)?;
    let found = pods.iter().find(|pod| {
        let conditions = pod["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        let ready = conditions.any(|it| it["type"] == "Ready" && it["status"] == "True");
        ready && pod["metadata"]["deletionTimestamp"].is_null()
    });
    let found = found.map(|pod| (name_of(pod).to_owned(), ip_of(pod).to_owned()));
    found.ok_or_else(|| Error::Unexpected(format!("no web on {}", node.name())))
}

/// At its pod's own address.
fn answers_as(plane: &ControlPlane, pod: &str, who: &str) -> Result {
    let pod = plane.get(&["pod", "-n", "shop", pod])?;
    ensure_eq(
        plane.ask("shop", "deploy/client", &url(&pod))?.as_str(),
        who,
        "who answers",
    )
}

/// What a container hears there that is put into a pod which runs already.
fn aside(plane: &ControlPlane, namespace: &str, pod: &str, web: &str) -> Result<String> {
    let ask = format!("timeout 5 wget -qO- http://{web}:8080/ 2>&1 || echo refused");
    plane.kubectl(&[
        "debug",
        "-n",
        namespace,
        pod,
        "--image=local.test/app:1",
        "--image-pull-policy=Never",
        "--container=aside",
        "--profile=general",
        "--",
        "sh",
        "-c",
        &ask,
    ])?;
    wait_for(
        Deadline::after(POD),
        || "what the container says",
        || {
            let log = plane.kubectl(&["logs", "-n", namespace, pod, "-c", "aside"]);
            Ok(log.ok().filter(|log| !log.is_empty()))
        },
    )
    .map(|said| said.trim().to_owned())
}

/// A pod is taken away without a word, and its address is given to the next,
/// of another account. Who knew the one never takes the other for it.
fn an_address_changes_hands(
    plane: &ControlPlane,
    worker: &Worker,
    daemons: &Installed<'_>,
    clients: &Node,
) -> Result {
    let first = server(plane, "first")?;
    answers_as(plane, "first", "first")?;
    plane.kubectl(&[
        "delete",
        "pod",
        "-n",
        "shop",
        "first",
        "--force",
        "--grace-period=0",
    ])?;
    let address = ip_of(&first).to_owned();
    worker.give_next(&address)?;
    let second = server(plane, "second")?;
    ensure_eq(
        ip_of(&second),
        address.as_str(),
        "the address of the second pod",
    )?;
    wait_for(
        Deadline::after(POD),
        || "the second pod to answer",
        || Ok(answers_as(plane, "second", "second").ok()),
    )?;
    let to = format!("{address}:8080");
    let mut heard = Vec::new();
    for line in daemons.access_log(clients)? {
        if line["original_dst"] == *to && line["bytes_to_client"].as_u64() > Some(0) {
            heard.push(line["destination"].as_str().unwrap_or_default().to_owned());
        }
    }
    ensure_eq(
        heard,
        ["first", "second"]
            .map(|name| format!("spiffe://example.org/ns/shop/sa/{name}"))
            .to_vec(),
        "whom the client has verified at that address",
    )
}

/// A pod and its account, of one name, that tells it.
fn server(plane: &ControlPlane, name: &str) -> Result<Value> {
    plane.apply(&json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": "shop"},
    }))?;
    // Who is deleted by force has the usual grace from its kubelet, and ends at once.
    let serve =
        format!("echo {name} > /www/index.html; trap exit TERM; httpd -f -p 8080 -h /www & wait");
    plane.apply(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "serviceAccountName": name, "terminationGracePeriodSeconds": 0,
            "nodeSelector": {"kubernetes.io/hostname": "b"},
            "containers": [{
                "name": "httpd", "image": "local.test/app:1", "command": ["sh", "-c", serve],
            }],
        },
    }))?;
    plane.wait("shop", &format!("pod/{name}"), "Ready")?;
    plane.get(&["pod", "-n", "shop", name])
}

/// Of each connection that brought anything: the Service is `web`, and who asks
/// it is `client`.
fn only_right_identities(daemons: &Installed<'_>, a: &Node, b: &Node) -> Result {
    let (mut seen, account) = (0, |name: &str| {
        format!("spiffe://example.org/ns/shop/sa/{name}")
    });
    for node in [a, b] {
        for line in daemons.access_log(node)? {
            let to_web = line["original_dst"] == "10.96.0.80:80";
            if to_web && line["bytes_to_client"].as_u64() > Some(0) {
                seen += 1;
                let who = (line["source"].as_str(), line["destination"].as_str());
                let right = (account("client"), account("web"));
                ensure(who == (Some(&right.0), Some(&right.1)), || line.to_string())?;
                ensure(line["in_clear"].is_null(), || line.to_string())?;
            }
        }
    }
    ensure(seen > 10, || format!("{seen} lines in the access logs"))
}

/// One node after the other: refused for a while, and then served again.
fn the_daemons_are_rolled(daemons: &Installed<'_>, steady: &Steady<'_>) -> Result {
    steady.answers(uptime()?)?;
    let from = uptime()?;
    daemons.roll()?;
    steady.none_failed(uptime()?)?;
    let heard = steady.since(from)?;
    let refused = heard.iter().any(|(_, said)| !said.starts_with("web on"));
    ensure(refused, || "nobody noticed that daemons were away")
}

/// Of a peer that cannot be reached nobody hears; of others, as ever.
fn a_daemon_is_cut_off(steady: &Steady<'_>, a: &Node, b: &Node) -> Result {
    let [v4, _] = b.pod_networks();
    let peer = b.wire_address(Family::V4);
    steady.hears("web on b", uptime()?)?;
    a.netns().ip(&format!("route replace blackhole {v4}\n"))?;
    let from = uptime()?;
    steady.hears("failed", from)?;
    steady.hears("web on a", from)?;
    a.netns().ip(&format!(
        "route del blackhole {v4}\nroute replace {v4} via {peer}\n"
    ))?;
    steady.hears("web on b", uptime()?)?;
    steady.none_failed(uptime()?)
}
