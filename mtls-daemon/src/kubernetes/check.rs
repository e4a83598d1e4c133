//! What a cluster lacks for this daemon, or would lose by it: asked once,
//! without a running daemon, by whoever wants to know before the daemon does.

mod callers;
mod closed;
mod monitors;
mod proxy;
mod rights;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use http::header::DATE;
use jiff::fmt::rfc2822;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ListParams;
use kube::client::Body;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::api_server::{client, root_cause};
use crate::config::{self, Config, Mode};

use super::policies::Kind;
use super::store::{News, Store};
use super::{ANSWER_WITHIN, Rules, Snapshot, crd};

/// What was found.
#[derive(Debug, Default)]
pub struct Examined {
    /// Without these no daemon becomes ready.
    pub faults: Vec<String>,
    /// And with these it will not do what somebody expects.
    pub warnings: Vec<String>,
    /// Nothing of it is wrong.
    pub notes: Vec<String>,
    /// Enrolled pods of this node.
    pub here: Vec<config::Workload>,
}

/// A clock that differs by more is worth a word: certificates live for an hour
/// and begin a little in the past.
const SKEW: SignedDuration = SignedDuration::from_secs(5);
/// Of a list of ten thousand objects.
const LIST_WITHIN: Duration = Duration::from_secs(30);

/// Asks the API server of the configuration's cluster, as the daemon or, with
/// a `kubeconfig`, as somebody who may see more.
pub async fn examine(
    kubernetes: &config::Kubernetes,
    config: &Config,
    kubeconfig: Option<&Path>,
) -> Examined {
    let mut examined = Examined::default();
    let other = kubeconfig.or(kubernetes.kubeconfig.as_deref());
    let client = match client(other).await {
        Ok(client) => client,
        Err(error) => {
            examined.faults.push(format!("kubernetes: {error}"));
            return examined;
        }
    };
    match clock(&client).await {
        Ok(skew) if skew.abs() <= SKEW || kubeconfig.is_some() => {}
        Ok(skew) => examined.warnings.push(off(skew)),
        Err(why) => {
            let what = format!("kubernetes: the API server does not answer: {why}");
            examined.faults.push(what);
            return examined;
        }
    }
    // Of somebody else, elsewhere, they say nothing.
    if kubeconfig.is_none() {
        examined.notes.push(proxy::note().await);
        let missing = rights::missing(&client, kubernetes, config).await;
        examined.faults.extend(missing);
    }
    let mut seen = Seen::new(client);
    Box::pin(look(&mut seen, kubernetes, config, &mut examined)).await;
    if !seen.hidden.is_empty() {
        examined.warnings.push(format!(
            "kubernetes: this account may not list {}, so nothing is said of them: ask again with --kubeconfig, as somebody who may",
            seen.hidden.join(", ")
        ));
    }
    for (what, why) in &seen.silent {
        let text = format!("kubernetes: listing {what}: {why}");
        examined.warnings.push(text);
    }
    examined
}

/// How far ahead of this node the API server is.
async fn clock(client: &Client) -> Result<SignedDuration, String> {
    let request = http::Request::get("/version").body(Body::empty());
    let request = request.map_err(|error| error.to_string())?;
    let asked = timeout(ANSWER_WITHIN, client.send(request)).await;
    let answer = asked
        .map_err(|_elapsed| format!("no answer within {ANSWER_WITHIN:?}"))?
        .map_err(|error| root_cause(&error))?;
    let date = answer.headers().get(DATE).and_then(|it| it.to_str().ok());
    let date = date.ok_or("it does not say what time it is")?;
    let there =
        rfc2822::parse(date).map_err(|error| format!("its clock says {date:?}: {error}"))?;
    Ok(there.timestamp().duration_since(Timestamp::now()))
}

fn off(skew: SignedDuration) -> String {
    let which = match skew.is_positive() {
        true => "behind",
        false => "ahead of",
    };
    format!(
        "the clock of this node is {} s {which} the API server's: set it by NTP (chrony, systemd-timesyncd), or certificates count as ended, or as not valid yet",
        skew.abs().as_secs()
    )
}

/// What a client was told, and was not.
struct Seen {
    client: Client,
    /// Kinds that it may not list.
    hidden: Vec<&'static str>,
    silent: Vec<(&'static str, String)>,
}

impl Seen {
    fn new(client: Client) -> Self {
        Self {
            client,
            hidden: Vec::new(),
            silent: Vec::new(),
        }
    }

    /// All of a kind; none if it may not be known, which is noted.
    async fn all<K>(&mut self, what: &'static str) -> Vec<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        self.list(what, Api::all(self.client.clone())).await
    }

    async fn list<K>(&mut self, what: &'static str, api: Api<K>) -> Vec<K>
    where
        K: Clone + Debug + DeserializeOwned,
    {
        match timeout(LIST_WITHIN, api.list(&ListParams::default())).await {
            Ok(Ok(list)) => return list.items,
            // The cluster has none of them.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {}
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => self.hidden.push(what),
            Ok(Err(error)) => self.silent.push((what, root_cause(&error))),
            Err(_elapsed) => {
                let why = format!("no answer within {LIST_WITHIN:?}");
                self.silent.push((what, why));
            }
        }
        Vec::new()
    }
}

/// A pod as it would be, were this daemon on its node.
struct Enrolled {
    namespace: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    addresses: Vec<IpAddr>,
    /// Of its containers, by their names.
    ports: BTreeMap<String, u16>,
    workload: config::Workload,
}

impl Enrolled {
    /// That is meant by its number, or by its name in the pod.
    fn port(&self, port: &IntOrString) -> Option<u16> {
        match port {
            IntOrString::Int(number) => u16::try_from(*number).ok(),
            IntOrString::String(name) => self.ports.get(name).copied(),
        }
    }
}

async fn look(
    seen: &mut Seen,
    kubernetes: &config::Kubernetes,
    config: &Config,
    examined: &mut Examined,
) {
    let pods: Vec<core::Pod> = seen.all("pods").await;
    let services: Vec<core::Service> = seen.all("services").await;
    let rules = Rules::of(kubernetes, config);
    let snapshot = Box::pin(snapshot(seen, &pods, &services, rules)).await;
    let here: Vec<String> = pods
        .iter()
        .filter_map(|pod| on(pod, &kubernetes.node))
        .collect();
    let enrolled = enrolled(&snapshot, pods, config);
    let policies: Vec<networking::NetworkPolicy> = seen.all("networkpolicies").await;
    let port = config.network.tunnel_port;
    let warnings = &mut examined.warnings;
    warnings.extend(closed::to_tunnels(&policies, &enrolled, port));
    let called = callers::of_api_server(seen).await;
    let key = format!("{}/excluded-inbound-ports", kubernetes.label_prefix);
    let behind = callers::Behind::new(&services, &snapshot.cluster, &enrolled, config);
    warnings.extend(behind.refused(&called, &key));
    warnings.extend(callers::scrapers(&enrolled, config, &key));
    warnings.extend(monitors::refused(seen, &services, &enrolled, config, &key).await);
    let own = enrolled.into_iter().map(|pod| pod.workload);
    examined.here = own.filter(|it| here.contains(&it.name)).collect();
}

/// Its name as a workload, if it is of that node.
fn on(pod: &core::Pod, node: &str) -> Option<String> {
    let its = pod.spec.as_ref()?.node_name.as_deref()?;
    (its == node).then(|| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()))
}

/// What a daemon would make of it that was responsible for all pods.
async fn snapshot(
    seen: &mut Seen,
    pods: &[core::Pod],
    services: &[core::Service],
    rules: Rules,
) -> Snapshot {
    let reads_policies = rules.policies;
    let mut store = Store::new(rules);
    tell(&mut store, pods.to_vec(), News::Pod);
    tell(&mut store, services.to_vec(), News::Service);
    let client = seen.client.clone();
    let namespaces: Vec<PartialObjectMeta<core::Namespace>> = seen.all("namespaces").await;
    tell(&mut store, namespaces, News::Namespace);
    tell(&mut store, seen.all("endpointslices").await, News::Slice);
    // Nobody asks for them here.
    tell(&mut store, Vec::new(), News::Node);
    tell(&mut store, Vec::new(), News::Networks);
    for kind in Kind::ALL.into_iter().filter(|_| reads_policies) {
        let definition = crd::definitions(&client).get_opt(kind.definition()).await;
        let definition = definition.ok().flatten().into_iter().collect();
        tell(&mut store, definition, |event| {
            News::Definition(kind, event)
        });
        let version = store.served(kind).map(str::to_owned);
        if let Some(version) = version {
            let objects = crd::objects(&client, kind, &version);
            let objects = seen.list(kind.plural(), objects).await;
            tell(&mut store, objects, |event| News::Policy(kind, event));
        }
    }
    store.snapshot(None)
}

/// As a watch begins.
fn tell<K>(store: &mut Store, objects: Vec<K>, news: impl Fn(Box<Event<K>>) -> News) {
    let objects = objects.into_iter().map(Event::InitApply);
    let all = [Event::Init].into_iter().chain(objects);
    for event in all.chain([Event::InitDone]) {
        store.heed(news(Box::new(event)));
    }
}

fn enrolled(snapshot: &Snapshot, pods: Vec<core::Pod>, config: &Config) -> Vec<Enrolled> {
    let workloads = snapshot.workloads.iter();
    let is_on = |it: &&config::Workload| config.mode_of(it) != Mode::Off;
    let workloads: HashMap<&str, _> = (workloads.filter(is_on))
        .map(|it| (it.name.as_str(), it))
        .collect();
    let enrolled = pods.into_iter().filter_map(|pod| {
        let namespace = pod.namespace()?;
        let name = format!("{namespace}/{}", pod.name_any());
        let workload = workloads.get(name.as_str())?;
        let containers = pod.spec.into_iter().flat_map(|spec| spec.containers);
        let ports = containers.flat_map(|container| container.ports.unwrap_or_default());
        let ports = ports.filter_map(|it| Some((it.name?, it.container_port.try_into().ok()?)));
        let addresses = pod.status.and_then(|status| status.pod_ips);
        let addresses = addresses.unwrap_or_default();
        Some(Enrolled {
            namespace,
            labels: pod.metadata.labels.unwrap_or_default(),
            annotations: pod.metadata.annotations.unwrap_or_default(),
            ports: ports.collect(),
            addresses: addresses
                .iter()
                .filter_map(|it| it.ip.parse().ok())
                .collect(),
            workload: (*workload).clone(),
        })
    });
    enrolled.collect()
}

/// `a, b, c and 4 more`.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 3;
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..SHOWN].join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_clock_is_ahead() {
        let ahead = off(SignedDuration::from_secs(-90));
        assert!(ahead.contains("90 s ahead of the API server's"), "{ahead}");
        let behind = off(SignedDuration::from_secs(7_200));
        assert!(
            behind.contains("7200 s behind the API server's"),
            "{behind}"
        );
    }

    #[test]
    fn a_long_list_is_cut() {
        let names = ["a", "b", "c", "d", "e"].map(str::to_owned);
        assert_eq!(some_of(&names[..1]), "a");
        assert_eq!(some_of(&names[..3]), "a, b, c");
        assert_eq!(some_of(&names), "a, b, c and 2 more");
    }
}
