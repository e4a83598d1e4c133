//! Keeping an identity, with a source that does as the test tells it.

use std::future::pending;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::*;
use crate::identity::disk_ca::Authority;
use crate::identity::pace::Pace;
use crate::identity::source::Next;
use crate::identity::{Issued, TrustBundle, pem};

const WEB: &str = "spiffe://example.org/web";
const TTL: Duration = Duration::from_secs(100);

type Answer = Result<Update, SourceError>;

/// Answers what it was given, in order; then waits. Notes when it was asked.
struct Told {
    answers: Mutex<Option<mpsc::UnboundedReceiver<Answer>>>,
    asked: Arc<Mutex<Vec<Instant>>>,
    /// Asked at its pace, as an authority is, or sending by itself.
    pace: Option<Pace>,
}

struct Telling {
    answers: mpsc::UnboundedReceiver<Answer>,
    asked: Arc<Mutex<Vec<Instant>>>,
    pace: Option<Pace>,
}

impl Source for Told {
    fn kind(&self) -> &'static str {
        "told"
    }

    fn updates(&self, _workload: &config::Workload) -> Box<dyn Updates> {
        Box::new(Telling {
            answers: self.answers.lock().unwrap().take().unwrap(),
            asked: Arc::clone(&self.asked),
            pace: self.pace.clone(),
        })
    }
}

impl Updates for Telling {
    fn next(&mut self, standing: Standing) -> Next<'_> {
        Box::pin(async move {
            if let Some(pace) = &self.pace {
                pace.wait(&standing).await;
            }
            self.asked.lock().unwrap().push(Instant::now());
            match self.answers.recv().await {
                Some(answer) => answer,
                None => pending().await,
            }
        })
    }

    fn renews_at(&self, held: &Svid) -> Option<SystemTime> {
        self.pace.as_ref().map(|pace| pace.renew_at(held))
    }
}

struct Setting {
    tell: mpsc::UnboundedSender<Answer>,
    asked: Arc<Mutex<Vec<Instant>>>,
    identity: watch::Receiver<WorkloadIdentity>,
    clock: Clock,
    authority: Authority,
    bundle: Arc<TrustBundle>,
}

impl Setting {
    fn asked_at_its_pace() -> Self {
        Self::new(true)
    }

    fn sending_by_itself() -> Self {
        Self::new(false)
    }

    fn new(paced: bool) -> Self {
        let (clock, _) = Clock::settable(SystemTime::now());
        let timings = Timings::default();
        let (tell, answers) = mpsc::unbounded_channel();
        let asked = Arc::default();
        let source = Told {
            answers: Mutex::new(Some(answers)),
            asked: Arc::clone(&asked),
            pace: paced.then(|| Pace::new(timings, clock.clone(), 7)),
        };
        let (authority, bundle) = authority(&clock);
        let nobody = watch::Sender::new(watch::Sender::new(Federation::default()).subscribe());
        let keeper = Keeper::new(
            &workload(),
            &source,
            nobody.subscribe(),
            NewestRevocations::none(),
            clock.clone(),
            timings,
        );
        let identity = keeper.subscribe();
        tokio::spawn(keeper.run());
        Self {
            tell,
            asked,
            identity,
            clock,
            authority,
            bundle,
        }
    }

    fn issued(&self, id: &str) -> Update {
        Update {
            issued: Some(self.certificate(id)),
            bundles: Some(TrustBundles::from_iter([Arc::clone(&self.bundle)])),
            complaint: None,
        }
    }

    fn certificate(&self, id: &str) -> Issued {
        self.authority
            .issue(&id.parse().unwrap(), self.clock.now())
            .unwrap()
    }

    async fn until(&mut self, wanted: impl FnMut(&WorkloadIdentity) -> bool) -> WorkloadIdentity {
        let waiting = self.identity.wait_for(wanted);
        let found = tokio::time::timeout(Duration::from_secs(3600), waiting).await;
        found.expect("waited in vain").unwrap().clone()
    }

    fn fail(&self) {
        self.tell
            .send(Err(SourceError::Load("out of order".into())))
            .unwrap();
    }

    fn gaps(&self) -> Vec<f64> {
        let asked = self.asked.lock().unwrap();
        asked
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).as_secs_f64())
            .collect()
    }
}

fn workload() -> config::Workload {
    config::Workload {
        name: "web".to_owned(),
        spiffe_id: WEB.parse().unwrap(),
        place: config::Place::Netns(PathBuf::from("/nowhere")),
        addresses: Vec::new(),
        mode: None,
        connect: None,
        source: None,
        excluded: Vec::new(),
        excluded_outbound_ports: Vec::new(),
        excluded_inbound_ports: Vec::new(),
        port_modes: Vec::new(),
        probe_ports: Vec::new(),
    }
}

fn authority(clock: &Clock) -> (Authority, Arc<TrustBundle>) {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap();
    let root = CertificateDer::from_pem_slice(root.pem().as_bytes()).unwrap();
    let roots = [root.clone()];
    let bundle = Arc::new(TrustBundle::new("example.org".parse().unwrap(), &roots).unwrap());
    let key = pem::private_key(key.serialize_pem().as_bytes()).unwrap();
    let authority = Authority::new(vec![root], key, &bundle, TTL, clock.now()).unwrap();
    (authority, bundle)
}

#[tokio::test(start_paused = true)]
async fn another_identity_is_never_taken() {
    let mut setting = Setting::asked_at_its_pace();
    for other in [
        "spiffe://example.org/web2",
        "spiffe://example.org/web/admin",
        "spiffe://example.org/db",
    ] {
        setting.tell.send(Ok(setting.issued(other))).unwrap();
    }
    let state = setting.until(|state| state.renewals.failed == 3).await;
    assert!(state.svid.is_none());
    let failure = state.failure.unwrap();
    assert!(
        failure.contains("the certificate is for spiffe://example.org/db"),
        "{failure}"
    );
    // Its bundle counts all the same.
    assert_eq!(state.bundles.iter().count(), 1);

    setting.tell.send(Ok(setting.issued(WEB))).unwrap();
    let state = setting.until(|state| state.svid.is_some()).await;
    assert_eq!(state.failure, None);
    assert_eq!(state.source, "told");
}

#[tokio::test(start_paused = true)]
async fn a_failing_authority_is_asked_ever_more_slowly() {
    let mut setting = Setting::asked_at_its_pace();
    for _ in 0..14 {
        setting.fail();
    }
    setting.until(|state| state.renewals.failed == 14).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    let gaps = setting.gaps();
    assert_eq!(gaps.len(), 14);
    for (nth, gap) in gaps.iter().enumerate() {
        let whole = (0.5 * f64::from(1 << nth)).min(60.0);
        assert!(
            (whole / 2.0..whole + 0.2).contains(gap),
            "wait {nth} took {gap} s"
        );
    }
    // Well again: the next failure starts from the beginning.
    setting.tell.send(Ok(setting.issued(WEB))).unwrap();
    setting.until(|state| state.svid.is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_is_down_past_the_end() {
    let mut setting = Setting::asked_at_its_pace();
    setting.tell.send(Ok(setting.issued(WEB))).unwrap();
    let state = setting.until(|state| state.svid.is_some()).await;
    let began = Instant::now();
    let renews_in = state
        .next_renewal
        .unwrap()
        .duration_since(setting.clock.now())
        .unwrap();
    assert!(renews_in >= Duration::from_secs(39) && renews_in <= Duration::from_secs(60));
    for _ in 0..6 {
        setting.fail();
    }
    // First a warning beside a good certificate, then nothing is left.
    let failing = setting.until(|state| state.failure.is_some()).await;
    assert!(failing.svid.is_some());
    assert!(began.elapsed() >= renews_in);
    let ended = setting.until(|state| state.svid.is_none()).await;
    assert!(ended.generation > state.generation);
    let failure = ended.failure.unwrap();
    assert!(
        failure.contains("the certificate ended at") && failure.contains("out of order"),
        "{failure}"
    );
    let took = began.elapsed();
    assert!(
        took >= TTL - Duration::from_secs(2) && took <= TTL,
        "{took:?}"
    );
    // Recovery is its own.
    setting.fail();
    setting.tell.send(Ok(setting.issued(WEB))).unwrap();
    let state = setting.until(|state| state.svid.is_some()).await;
    assert_eq!(state.failure, None);
    assert_eq!(state.renewals.succeeded, 2);
}

#[tokio::test(start_paused = true)]
async fn what_its_source_withdraws_is_not_used() {
    let mut setting = Setting::sending_by_itself();
    setting.tell.send(Ok(setting.issued(WEB))).unwrap();
    let before = setting.until(|state| state.svid.is_some()).await;
    // Being away withdraws nothing.
    setting.fail();
    let state = setting.until(|state| state.failure.is_some()).await;
    assert!(state.svid.is_some());
    let withdrawn = SourceError::Withdrawn("its entry is gone".into());
    setting.tell.send(Err(withdrawn)).unwrap();
    let state = setting.until(|state| state.renewals.failed == 2).await;
    assert!(state.svid.is_none());
    assert!(state.generation > before.generation);
    assert_eq!(state.failure.as_deref(), Some("its entry is gone"));

    setting.tell.send(Ok(setting.issued(WEB))).unwrap();
    let state = setting.until(|state| state.svid.is_some()).await;
    assert_eq!(state.failure, None);
}

/// A source that sends by itself is never kept waiting, whatever failed.
#[tokio::test(start_paused = true)]
async fn news_are_taken_as_they_come() {
    let mut setting = Setting::sending_by_itself();
    for _ in 0..10 {
        setting.fail();
    }
    setting.tell.send(Ok(setting.issued(WEB))).unwrap();
    let began = Instant::now();
    let state = setting.until(|state| state.svid.is_some()).await;
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(state.next_renewal, None);
}

#[tokio::test(start_paused = true)]
async fn the_same_certificate_again_changes_nothing() {
    let mut setting = Setting::sending_by_itself();
    let first = setting.certificate(WEB);
    let again = || Issued {
        chain: first.chain.clone(),
        key: Arc::clone(&first.key),
    };
    let update = |issued| Update {
        issued: Some(issued),
        ..setting.issued(WEB)
    };
    setting.tell.send(Ok(update(again()))).unwrap();
    setting.tell.send(Ok(update(again()))).unwrap();
    let complaining = Update {
        complaint: Some("a word".into()),
        ..update(again())
    };
    setting.tell.send(Ok(complaining)).unwrap();
    let state = setting.until(|state| state.failure.is_some()).await;
    assert_eq!(state.failure.as_deref(), Some("a word"));
    assert_eq!(state.renewals.succeeded, 1);
    // One for the bundle, one for the certificate.
    assert_eq!(state.generation, 2);
}

#[tokio::test(start_paused = true)]
async fn a_bundle_alone() {
    let mut setting = Setting::sending_by_itself();
    setting.tell.send(Ok(setting.issued(WEB))).unwrap();
    let before = setting.until(|state| state.svid.is_some()).await;
    let (_, other) = authority(&setting.clock);
    let withdrawn = Update {
        bundles: Some(TrustBundles::from_iter([other])),
        ..Update::default()
    };
    setting.tell.send(Ok(withdrawn)).unwrap();
    let state = setting.until(|state| state.failure.is_some()).await;
    assert!(state.generation > before.generation);
    assert!(state.svid.is_some(), "others may still know the old root");
    let failure = state.failure.unwrap();
    assert!(
        failure.contains("no root in the trust bundle of example.org"),
        "{failure}"
    );

    let restored = Update {
        bundles: Some(TrustBundles::from_iter([Arc::clone(&setting.bundle)])),
        ..Update::default()
    };
    setting.tell.send(Ok(restored)).unwrap();
    setting.until(|state| state.failure.is_none()).await;
}
