//! Kubernetes: pods of this node by watch, Services and EndpointSlices as
//! kube-proxy watches them, pods of other nodes only when somebody asks.
//!
//! The API server is asked here and nowhere else; what comes of it is a
//! snapshot. While it is away the last snapshot stands.

mod ask;
mod check;
mod crd;
mod events;
mod issuing;
mod istio;
mod kept;
mod own;
mod pods;
mod policies;
mod probes;
mod saved;
mod services;
mod store;
mod text;
mod uninstall;
mod watch;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use kube::{Api, Client};
use thiserror::Error;
use tokio::sync::{mpsc, watch as latest};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{Instant, sleep_until, timeout};

use crate::api_server::{self, LoginError, root_cause};
use crate::config::{self, Config};
use crate::directory::{Cluster, Who};
use crate::locate;

use ask::Found;
pub use check::{Examined, examine};
use events::Events;
pub use events::Notice;
use istio::Watches;
pub use own::{Mark, Own, Plugin, UNINSTALL, Uninstall, plugin};
pub use pods::{Rules, SaidBy, Unfit};
pub use policies::{Kind, Note, Policies, Standing};
use saved::{Saved, SavedError, Saver};
pub use services::PodRef;
use store::{News, NotKnown, Store};
pub use uninstall::{Asked, Progress, Report, UninstallError};
use watch::Missing::{IsEmpty, IsTrouble};
use watch::{Teller, Told};

/// What this node knows of its cluster.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Everything is known, from the API server or from an earlier daemon.
    pub is_whole: bool,
    /// The API server has told everything to this daemon.
    pub is_told: bool,
    /// What keeps it from being told of changes.
    pub trouble: Option<String>,
    pub cluster: Arc<Cluster>,
    /// The pods of this node, enrolled or not.
    pub workloads: Vec<config::Workload>,
    /// And those that cannot be enrolled, though they should.
    pub unfit: Vec<Unfit>,
    /// Who may call them, by objects of the cluster.
    pub policies: Arc<Policies>,
    /// Who has decided on each of them, by the UID its node knows.
    pub said_by: HashMap<String, SaidBy>,
    /// Whether this daemon is to stay.
    pub own: Own,
}

impl Snapshot {
    /// Enough to begin with.
    pub fn is_enough(&self) -> bool {
        match self.own {
            Own::Leaves(_) => true,
            Own::Stays => self.is_whole,
            Own::NotTold => false,
        }
    }

    /// Who has decided on the mode of a pod.
    pub fn decided(&self, uid: &str) -> &str {
        self.said_by.get(uid).map_or("", SaidBy::word)
    }
}

/// What the rest of the daemon has to say here.
pub struct FromNode {
    /// Addresses that somebody wants to know about.
    pub questions: mpsc::Receiver<IpAddr>,
    /// What pods are to be told by Events.
    pub notices: mpsc::Receiver<Notice>,
}

/// Why the API server cannot even be asked.
#[derive(Debug, Error)]
#[error("kubernetes: {0}")]
pub struct KubernetesError(#[from] LoginError);

/// Changes within this time make one snapshot.
const GATHER: Duration = Duration::from_millis(20);
/// Questions under way at once.
const AT_ONCE: usize = 16;
/// An answer that takes longer is none.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);
const TIDY_EVERY: Duration = Duration::from_secs(10);

/// Starts to watch, in tasks of the current `LocalSet`, from what an earlier
/// daemon has saved. `cgroup2` is the mount of the unified cgroup tree.
pub async fn start(
    kubernetes: &config::Kubernetes,
    config: &Config,
    cgroup2: &Path,
    node: FromNode,
) -> Result<latest::Receiver<Arc<Snapshot>>, KubernetesError> {
    let client = api_server::client(kubernetes.kubeconfig.as_deref()).await?;
    let rules = Rules::of(kubernetes, config);
    let (sender, snapshots) = latest::channel(Arc::default());
    let (tell, told) = mpsc::channel(256);
    let tell = Teller::to(tell);
    watch_everything(&client, &rules, &tell);
    let own = match &kubernetes.daemonset {
        None => Own::Stays,
        Some(name) => {
            spawn_local(watch::objects(
                "daemonsets",
                own::sets(&client),
                watcher::Config::default().fields(&format!("metadata.name={name}")),
                IsTrouble,
                News::Own,
                tell.clone(),
            ));
            Mark::of(config).read().map_or(Own::NotTold, Own::Leaves)
        }
    };
    let saved = Saved(kubernetes.state.clone());
    let store = from_disk(&saved, &rules, cgroup2).unwrap_or_else(|error| {
        tracing::warn!(%error, "the state on disk is not used, and written anew: until the API server has answered nothing is known of the cluster");
        None
    });
    let mut observer = Observer {
        events: Events::new(client.clone(), &rules.node),
        istio: Watches::start(&client, tell, rules.policies),
        noted: HashSet::new(),
        store: store.unwrap_or_else(|| Store::new(rules)).of(own),
        client,
        saver: Saver::new(saved, Instant::now()),
        troubles: BTreeMap::new(),
        asked: HashSet::new(),
        sender,
    };
    observer.follow_definitions();
    observer.publish();
    spawn_local(observer.run(told, node));
    Ok(snapshots)
}

/// What an earlier daemon of this node has saved.
fn from_disk(saved: &Saved, rules: &Rules, cgroup2: &Path) -> Result<Option<Store>, SavedError> {
    let Some(state) = saved.read()? else {
        return Ok(None);
    };
    let here = |uids: Vec<&str>| locate::pods(uids, cgroup2);
    let store = Store::known(rules.clone(), &state, Instant::now(), here);
    let store = store.map_err(|error| match error {
        NotKnown::OtherRules => SavedError::OtherRules(saved.0.clone()),
        NotKnown::Unreadable(why) => saved.damaged(why),
    })?;
    tracing::info!(path = %saved.0.display(), "starting from what was known of the cluster");
    Ok(Some(store))
}

fn watch_everything(client: &Client, rules: &Rules, tell: &Teller) {
    let all = watcher::Config::default;
    let own = all().fields(&format!("spec.nodeName={}", rules.node));
    let of_services = all().labels("kubernetes.io/service-name");
    let tell = || tell.clone();
    let pods: Api<core::Pod> = Api::all(client.clone());
    spawn_local(watch::objects(
        "pods",
        pods,
        own,
        IsEmpty,
        News::Pod,
        tell(),
    ));
    let namespaces: Api<PartialObjectMeta<core::Namespace>> = Api::all(client.clone());
    spawn_local(watch::objects(
        "namespaces",
        namespaces,
        all(),
        IsEmpty,
        News::Namespace,
        tell(),
    ));
    let services: Api<core::Service> = Api::all(client.clone());
    spawn_local(watch::objects(
        "services",
        services,
        all(),
        IsEmpty,
        News::Service,
        tell(),
    ));
    let slices: Api<discovery::EndpointSlice> = Api::all(client.clone());
    spawn_local(watch::objects(
        "endpointslices",
        slices,
        of_services,
        IsEmpty,
        News::Slice,
        tell(),
    ));
    let nodes: Api<core::Node> = Api::all(client.clone());
    spawn_local(watch::objects(
        "nodes",
        nodes,
        all(),
        IsEmpty,
        News::Node,
        tell(),
    ));
    // An older API server has none of them.
    let cidrs: Api<networking::ServiceCIDR> = Api::all(client.clone());
    spawn_local(watch::objects(
        "servicecidrs",
        cidrs,
        all(),
        IsEmpty,
        News::Networks,
        tell(),
    ));
}

struct Observer {
    store: Store,
    client: Client,
    saver: Saver,
    events: Events,
    /// By the kind whose watch has it.
    troubles: BTreeMap<&'static str, String>,
    /// Addresses whose answer is on its way.
    asked: HashSet<IpAddr>,
    istio: Watches,
    /// What of policies was complained of already.
    noted: HashSet<(Kind, String, String)>,
    sender: latest::Sender<Arc<Snapshot>>,
}

/// What came of a question.
struct Answer {
    address: IpAddr,
    said: Result<Found, String>,
}

impl Observer {
    async fn run(mut self, mut told: mpsc::Receiver<Told>, mut node: FromNode) {
        let mut lookups = JoinSet::new();
        let mut tidy = Instant::now() + TIDY_EVERY;
        let mut publish_at: Option<Instant> = None;
        loop {
            let save_at = self.saver.due();
            let due = [publish_at, save_at]
                .into_iter()
                .flatten()
                .fold(tidy, Instant::min);
            let changed = tokio::select! {
                biased;
                Some(told) = told.recv() => self.heed(told),
                Some(answer) = lookups.join_next() => answer.is_ok_and(|answer| self.take(answer)),
                Some(address) = node.questions.recv(), if lookups.len() < AT_ONCE => {
                    if self.asked.insert(address) {
                        lookups.spawn(self.look_up(address));
                    }
                    false
                }
                Some(notice) = node.notices.recv() => {
                    self.tell(notice);
                    false
                }
                () = self.events.told() => false,
                () = self.saver.written() => false,
                () = sleep_until(due) => {
                    let now = Instant::now();
                    if publish_at.take_if(|at| *at <= now).is_some() {
                        self.publish();
                    }
                    if save_at.is_some_and(|at| at <= now) {
                        self.save();
                    }
                    if tidy <= now {
                        tidy = now + TIDY_EVERY;
                        self.tidy();
                    }
                    false
                }
            };
            if changed && publish_at.is_none() {
                publish_at = Some(Instant::now() + GATHER);
            }
        }
    }

    fn heed(&mut self, told: Told) -> bool {
        match told {
            Told::News(news) => {
                let changed = self.store.heed(news);
                self.follow_definitions();
                changed
            }
            // Of a watch that was stopped meanwhile.
            Told::State(what, _) if self.istio.has_ended(what) => false,
            Told::State(what, Ok(())) => {
                let mended = self.troubles.remove(what).is_some();
                if mended {
                    tracing::info!(what, "the API server tells of changes again");
                }
                mended
            }
            Told::State(what, Err(trouble)) => {
                let before = self.troubles.insert(what, trouble.clone());
                let new = before.as_ref() != Some(&trouble);
                if new {
                    tracing::warn!(trouble, "the API server does not tell of changes");
                }
                new
            }
        }
    }

    fn follow_definitions(&mut self) {
        for what in self.istio.follow(&self.store) {
            self.troubles.remove(what);
        }
    }

    fn look_up(&self, address: IpAddr) -> impl Future<Output = Answer> + use<> {
        let (client, rules) = (self.client.clone(), self.store.rules.clone());
        let hints = self.store.hints(address);
        async move {
            let who = ask::who(&client, address, hints, &rules);
            let said = match timeout(ANSWER_WITHIN, who).await {
                Ok(said) => said.map_err(|error| root_cause(&error)),
                Err(_) => Err(format!("no answer within {ANSWER_WITHIN:?}")),
            };
            Answer { address, said }
        }
    }

    /// No answer changes nothing: what is known goes on, and who is not known
    /// stays so.
    fn take(&mut self, answer: Answer) -> bool {
        let Answer { address, said } = answer;
        self.asked.remove(&address);
        match said {
            Ok(found) => {
                let who = match found {
                    Found::Pod(pod) => self.store.who(&pod, address),
                    Found::Node => Who::Node,
                    Found::Nobody => Who::Nobody,
                };
                self.store.answer(address, who, Instant::now());
                true
            }
            Err(error) => {
                tracing::warn!(%address, error, "the API server does not say who is there");
                false
            }
        }
    }

    fn tell(&mut self, notice: Notice) {
        match notice {
            Notice::Cut { uid, cut } => {
                if let Some(pod) = self.store.pod(&uid) {
                    self.events.connections_cut(&pod, cut);
                }
            }
            Notice::ProbeRefused { uid, port, prober } => {
                if let Some(pod) = self.store.pod(&uid) {
                    self.events.probe_refused(&pod, port, prober.as_deref());
                }
            }
            Notice::Left(report) => self.events.left(report),
        }
    }

    fn tidy(&mut self) {
        if self.troubles.is_empty() {
            self.store.forget_old_answers(Instant::now());
        }
    }

    fn save(&mut self) {
        let began = Instant::now();
        let state = self.store.saved();
        self.saver.write(state, began.elapsed());
    }

    fn publish(&mut self) {
        if self.store.is_whole() {
            self.saver.changed(Instant::now());
        }
        let trouble = self.troubles.values().next().cloned();
        let snapshot = self.store.snapshot(trouble.or_else(|| self.told_before()));
        self.events.cannot_enrol(&snapshot.unfit);
        self.complain(&snapshot.policies);
        self.sender.send_replace(Arc::new(snapshot));
    }

    /// Of what is not judged as it is written; once each.
    fn complain(&mut self, policies: &Policies) {
        let mut now = HashSet::new();
        for note in &policies.notes {
            for complaint in &note.complaints {
                let told = (note.kind, note.name.clone(), complaint.clone());
                if !self.noted.contains(&told) {
                    tracing::warn!(
                        kind = note.kind.word(),
                        name = note.name,
                        complaint,
                        "an object of Istio's API is not in force as it is written"
                    );
                    self.events.policy(note, complaint);
                }
                now.insert(told);
            }
        }
        self.noted = now;
    }

    /// What is known is no news of the API server's.
    fn told_before(&self) -> Option<String> {
        let is_old = self.store.is_whole() && !self.store.is_told();
        is_old.then(|| "it has not told everything since this daemon started".to_owned())
    }
}
