//! What the operator wrote and what the cluster says, as the workers see it:
//! one immutable snapshot, replaced whole when either changes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::addr::OriginalDst;
use crate::config::{AuthorizationPolicy, Config, ForeignPastExpiry, Limits, Outside, Workload};
use crate::directory::{Cluster, Destination, Directory};
use crate::policy::{Modes, Rules};
use crate::spiffe::SpiffeId;

#[derive(Debug)]
pub struct Facts {
    pub directory: Directory,
    /// The same until a policy changes.
    pub rules: Arc<Rules>,
    /// The same until a workload's mode changes.
    pub modes: Arc<Modes>,
    pub limits: Limits,
    /// What becomes of connections to those that are no workloads.
    pub outside: Outside,
    pub tunnel_port: u16,
    pub foreign_past_expiry: ForeignPastExpiry,
    /// One line a connection in the log.
    pub access_log: bool,
}

impl Facts {
    /// `pods`: workloads of this node beside the configuration's.
    pub fn new(config: &Config, cluster: Arc<Cluster>, pods: &[Workload]) -> Self {
        Self {
            directory: Directory::new(config, cluster),
            modes: Arc::new(Modes::new(config, pods)),
            rules: Arc::new(Rules::new(config.authorization.clone())),
            limits: config.limits.clone(),
            outside: config.node.outside,
            foreign_past_expiry: config.identity.foreign_past_expiry,
            tunnel_port: config.network.tunnel_port,
            access_log: config.log.access,
        }
    }

    /// And by these policies, besides the configuration's.
    #[must_use]
    pub fn guarded_by(mut self, policies: &[AuthorizationPolicy]) -> Self {
        if !policies.is_empty() {
            self.rules = Arc::new(self.rules.and(policies));
        }
        self
    }

    /// With the rules and modes of `before`, if they say the same: whoever holds
    /// to them need not look again.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        if self.modes == before.modes {
            self.modes = Arc::clone(&before.modes);
        }
        if self.rules == before.rules {
            self.rules = Arc::clone(&before.rules);
        }
        self
    }

    /// Whether all that open connections are held to is the same in `other`.
    pub fn judges_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.rules, &other.rules) && Arc::ptr_eq(&self.modes, &other.modes)
    }
}

/// The newest facts; cheap to read, once a connection.
#[derive(Clone, Debug)]
pub struct Newest {
    facts: watch::Receiver<Arc<Facts>>,
    /// To whoever asks the cluster about an address; the answer is among the
    /// facts.
    questions: mpsc::Sender<IpAddr>,
}

/// A connection waits this long for the cluster to say who is at an address.
const PATIENCE: Duration = Duration::from_secs(5);
/// And so long for the one endpoint of several that its client is to keep to.
const PATIENCE_FOR_ONE: Duration = Duration::from_millis(500);
/// A client's pod may be younger than what the API server knows of it.
const ASK_AGAIN: Duration = Duration::from_millis(500);

impl Newest {
    pub fn new(facts: watch::Receiver<Arc<Facts>>, questions: mpsc::Sender<IpAddr>) -> Self {
        Self { facts, questions }
    }

    pub fn get(&self) -> Arc<Facts> {
        Arc::clone(&self.facts.borrow())
    }

    /// To wait for newer ones.
    pub fn changes(&self) -> watch::Receiver<Arc<Facts>> {
        self.facts.clone()
    }

    /// The facts, with all that can be known of a destination: if nobody is
    /// known there, or not the one that the client is to keep to, the cluster is
    /// asked first.
    pub async fn about(&self, dst: OriginalDst, client: Option<IpAddr>) -> Arc<Facts> {
        let facts = self.get();
        let now = Instant::now();
        let questions = facts.directory.questions(dst, client, now);
        if questions.is_empty() {
            return facts;
        }
        questions.iter().for_each(|address| self.ask(*address));
        let awaited = facts.directory.awaited(dst, client);
        let is_known = |facts: &Facts| {
            let directory = &facts.directory;
            let is_answered = |address: &IpAddr| directory.is_answered(*address, now);
            let is_found = directory.find(dst) != Destination::Unknown;
            is_found && awaited.iter().all(is_answered) || questions.iter().all(is_answered)
        };
        let patience = match facts.directory.find(dst) {
            Destination::Unknown => PATIENCE,
            _ => PATIENCE_FOR_ONE,
        };
        let mut changes = self.facts.clone();
        let known = changes.wait_for(|facts| is_known(facts));
        // Without an answer the facts are what they were.
        let _ = timeout(patience, known).await;
        self.get()
    }

    /// Whether `id` is at `address`. Where somebody else is known, or nobody,
    /// the cluster is asked, and given a while to learn of a new pod.
    pub async fn confirm(&self, id: &SpiffeId, address: IpAddr) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut changes = self.facts.clone();
        loop {
            let facts = Arc::clone(&changes.borrow_and_update());
            let directory = &facts.directory;
            if directory.is_at(id, address) {
                return true;
            }
            let now = Instant::now();
            if now >= deadline || !directory.may_learn(address) {
                return false;
            }
            self.ask(address);
            // Changes of other facts, and no answer at all, end here, too.
            let again = deadline.min(now + ASK_AGAIN);
            let is_there = |facts: &Arc<Facts>| facts.directory.is_at(id, address);
            let _ = timeout_at(again, changes.wait_for(is_there)).await;
        }
    }

    /// With too many questions under way one is lost, and asked again or
    /// refused for want of an answer.
    fn ask(&self, address: IpAddr) {
        let _ = self.questions.try_send(address);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::directory::{self, Seen, Who};

    const NODE: &str = r#"
version = 1
[identity]
trust_domain = "example.org"
[identity.disk-ca]
certificate = "/ca.pem"
key = "/ca-key.pem"
[kubernetes]
"#;

    type Publish = watch::Sender<Arc<Facts>>;

    /// With who is known at 10.0.1.4, if anybody was asked about it.
    fn facts(known: Option<Option<SpiffeId>>) -> Arc<Facts> {
        let config = crate::config::parse("x", NODE).unwrap();
        let mut cluster = Cluster {
            answers: true,
            networks: vec!["10.0.0.0/16".parse().unwrap()],
            ..Cluster::default()
        };
        if let Some(id) = known {
            let who = id.map_or(Who::Nobody, Who::Workload);
            let asked = Some(Instant::now());
            cluster.seen.insert(address(), Seen { who, asked });
        }
        Arc::new(Facts::new(&config, Arc::new(cluster), &[]))
    }

    fn cast() -> (Newest, Publish, mpsc::Receiver<IpAddr>) {
        let (publish, facts) = watch::channel(facts(None));
        let (ask, questions) = mpsc::channel(8);
        (Newest::new(facts, ask), publish, questions)
    }

    fn address() -> IpAddr {
        "10.0.1.4".parse().unwrap()
    }

    fn dst() -> OriginalDst {
        OriginalDst("10.0.1.4:80".parse().unwrap())
    }

    fn web() -> SpiffeId {
        "spiffe://example.org/web".parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_known_is_asked_for_and_awaited() {
        let (newest, publish, mut questions) = cast();
        let answer = async {
            assert_eq!(questions.recv().await, Some(address()));
            publish.send_replace(facts(Some(Some(web()))));
        };
        let (facts, ()) = tokio::join!(newest.about(dst(), None), answer);
        assert!(matches!(
            facts.directory.find(dst()),
            Destination::Workload(_)
        ));
        let began = Instant::now();
        newest.about(dst(), None).await;
        assert_eq!(began.elapsed(), Duration::ZERO, "it is known now");
        assert!(questions.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn whom_a_client_keeps_to_is_awaited_for_a_moment() {
        let client = Some("10.0.1.9".parse().unwrap());
        let (mut both, vip) = (
            ["10.0.1.4:80", "10.0.1.5:80"].map(|at| at.parse().unwrap()),
            "10.96.0.5:80",
        );
        both.sort_by_key(|at| directory::preference(client, *at));
        let vip = OriginalDst(vip.parse().unwrap());
        let [first, second] = both.map(|at: SocketAddr| at.ip());
        let (ask, mut questions) = mpsc::channel(8);
        let known = |who: &[IpAddr]| {
            let config = crate::config::parse("x", NODE).unwrap();
            let behind = directory::Behind {
                workloads: both.to_vec(),
                addresses: Vec::new(),
            };
            let service = directory::Service {
                ports: [(80, behind)].into(),
                sticky: true,
            };
            let seen = who.iter().map(|ip| {
                let asked = Some(Instant::now());
                let who = Who::Workload(web());
                (*ip, Seen { who, asked })
            });
            let cluster = Cluster {
                answers: true,
                seen: seen.collect(),
                services: [(vip.0.ip(), Arc::new(service))].into(),
                ..Cluster::default()
            };
            Arc::new(Facts::new(&config, Arc::new(cluster), &[]))
        };
        let (publish, facts) = watch::channel(known(&[second]));
        let newest = Newest::new(facts, ask);
        let began = Instant::now();
        // Without an answer it makes do with whom it knows.
        newest.about(vip, client).await;
        assert_eq!(began.elapsed(), PATIENCE_FOR_ONE);
        assert_eq!(questions.recv().await, Some(first));
        let answer = async {
            assert_eq!(questions.recv().await, Some(first));
            publish.send_replace(known(&[first, second]));
        };
        let began = Instant::now();
        let (facts, ()) = tokio::join!(newest.about(vip, client), answer);
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(facts.directory.awaited(vip, client), None);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_an_answer_and_silence_ends() {
        let (newest, publish, mut questions) = cast();
        let began = Instant::now();
        let answer = async {
            questions.recv().await;
            publish.send_replace(facts(Some(None)));
        };
        tokio::join!(newest.about(dst(), None), answer);
        assert_eq!(began.elapsed(), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(60)).await;
        let began = Instant::now();
        let facts = newest.about(dst(), None).await;
        assert_eq!(began.elapsed(), PATIENCE);
        assert_eq!(facts.directory.find(dst()), Destination::Unknown);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clients_pod_may_become_known_a_moment_late() {
        let (newest, publish, mut questions) = cast();
        let id = web();
        let answers = async {
            // Somebody else was there, then nobody, then it is.
            for said in [
                Some("spiffe://example.org/db".parse().unwrap()),
                None,
                Some(web()),
            ] {
                questions.recv().await;
                publish.send_replace(facts(Some(said)));
            }
        };
        let (is_there, ()) = tokio::join!(newest.confirm(&id, address()), answers);
        assert!(is_there);
    }

    #[tokio::test(start_paused = true)]
    async fn somebody_else_stays_somebody_else() {
        let (newest, publish, _questions) = cast();
        let other = Some("spiffe://example.org/db".parse().unwrap());
        publish.send_replace(facts(Some(other)));
        let began = Instant::now();
        assert!(!newest.confirm(&web(), address()).await);
        assert_eq!(began.elapsed(), PATIENCE);
        // Where the cluster has nothing to say, nobody waits.
        let outside = "192.0.2.1".parse().unwrap();
        assert!(!newest.confirm(&web(), outside).await);
        assert_eq!(began.elapsed(), PATIENCE);
    }
}
