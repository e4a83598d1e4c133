//! `spire`: the SPIRE agent of this node, asked on the workloads' behalf by
//! its Delegated Identity API. It sends by itself: every change of an SVID or
//! a bundle comes on a stream.
//!
//! An agent that is away changes nothing: what came from it counts until it
//! ends. An agent that no longer offers an SVID withdraws it, and it is not
//! used from then on (SPIFFE Workload API, 5.2.1).

mod explain;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod grpc;
mod messages;
mod process;
mod protobuf;

use std::collections::BTreeMap;
use std::future::pending;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use zeroize::Zeroizing;

use self::explain::Asked;
use self::grpc::{Agent, CallError, Messages};
use self::messages::Offer;
use self::process::{Process, ProcessError};
use super::bundle::{TrustBundle, TrustBundles};
use super::pace::{Pace, Timings};
use super::source::{Next, Source, SourceError, Standing, Update, Updates};
use super::svid::Issued;
use crate::clock::Clock;
use crate::config::{self, SelectedBy};
use crate::spiffe::{SpiffeId, TrustDomain};

const SUBSCRIBE_TO_SVIDS: &str =
    "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/SubscribeToX509SVIDs";
const SUBSCRIBE_TO_BUNDLES: &str =
    "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/SubscribeToX509Bundles";
/// How often the socket is looked at while the agent is away, and the
/// workload's namespace while no process is in it.
const LOOK: Duration = Duration::from_secs(1);
/// For the first message of a stream: the agent may have to ask its server.
const FIRST_MESSAGE: Duration = Duration::from_secs(30);

/// The source: one for all workloads that name the same agent.
pub struct Spire {
    agent: Arc<Agent>,
    bundles: watch::Receiver<Bundles>,
    clock: Clock,
    timings: Timings,
    seed: u64,
}

/// All bundles that the agent knows. Neither: it has not answered yet.
#[derive(Debug, Default)]
struct Bundles {
    known: Option<BTreeMap<TrustDomain, Arc<TrustBundle>>>,
    problem: Option<String>,
}

impl Spire {
    /// Follows the agent's bundles from now on.
    pub fn start(
        config: &config::Spire,
        trust_domain: &TrustDomain,
        clock: Clock,
        timings: Timings,
        seed: u64,
    ) -> Self {
        let agent = Arc::new(Agent::new(&config.socket));
        let (sender, bundles) = watch::channel(Bundles::default());
        let pace = Pace::new(timings, clock.clone(), seed);
        tokio::spawn(follow_bundles(
            Arc::clone(&agent),
            trust_domain.clone(),
            pace,
            sender,
        ));
        Self {
            agent,
            bundles,
            clock,
            timings,
            seed,
        }
    }
}

/// Until nobody listens any more.
async fn follow_bundles(
    agent: Arc<Agent>,
    trust_domain: TrustDomain,
    pace: Pace,
    sender: watch::Sender<Bundles>,
) {
    let mut failures = 0;
    loop {
        let Err(error) = tokio::select! {
            () = sender.closed() => return,
            ended = hear_bundles(&agent, &sender, &mut failures) => ended,
        };
        failures += 1;
        let problem = explain::call(&error, agent.socket(), trust_domain.as_str());
        sender.send_modify(|state| state.problem = Some(problem));
        tokio::select! {
            () = sender.closed() => return,
            () = until_worth_a_try(agent.socket(), pace.backoff(failures)) => {}
        }
    }
}

/// Takes bundles in until the stream ends.
async fn hear_bundles(
    agent: &Agent,
    sender: &watch::Sender<Bundles>,
    failures: &mut u32,
) -> Result<std::convert::Infallible, CallError> {
    let mut stream = agent.call(SUBSCRIBE_TO_BUNDLES, &[]).await?;
    let first = timeout(FIRST_MESSAGE, stream.next()).await;
    let mut message = first.or(Err(CallError::TimedOut(FIRST_MESSAGE)))??;
    loop {
        let bundles = messages::bundles(&message).or(Err(CallError::Garbled))?;
        *failures = 0;
        let mut known = BTreeMap::new();
        for (trust_domain, bundle) in bundles {
            match bundle {
                Ok(bundle) => drop(known.insert(trust_domain, bundle)),
                Err(error) => {
                    tracing::warn!(%trust_domain, "the SPIRE agent's bundle is of no use: {error}");
                }
            }
        }
        sender.send_modify(|state| {
            state.known = Some(known);
            state.problem = None;
        });
        message = stream.next().await?;
    }
}

/// Waits, but not past the moment at which an agent comes back: it makes its
/// socket anew.
async fn until_worth_a_try(socket: &Path, wait: Duration) {
    let identity = || {
        let about = std::fs::metadata(socket).ok()?;
        Some((about.dev(), about.ino(), about.ctime(), about.ctime_nsec()))
    };
    let before = identity();
    let until = Instant::now() + wait;
    while Instant::now() < until {
        sleep_until(until.min(Instant::now() + LOOK)).await;
        if identity() != before {
            return;
        }
    }
}

impl Source for Spire {
    fn kind(&self) -> &'static str {
        "spire"
    }

    fn updates(&self, workload: &config::Workload) -> Box<dyn Updates> {
        let selected = match &workload.source {
            Some(config::Source::Spire(_, selected)) => selected.clone(),
            _ => SelectedBy::default(),
        };
        let mut bundles = self.bundles.clone();
        // Their present state is news to this workload.
        bundles.mark_changed();
        Box::new(Following {
            subject: Subject {
                agent: Arc::clone(&self.agent),
                workload: workload.clone(),
                selected,
                pace: Pace::new(self.timings, self.clock.clone(), self.seed),
            },
            bundles,
            subscription: None,
            offered: Offered::default(),
            settle: self.timings.settle,
        })
    }
}

/// Hands on what the agent offers one workload.
struct Following {
    subject: Subject,
    bundles: watch::Receiver<Bundles>,
    subscription: Option<Subscription>,
    offered: Offered,
    settle: Duration,
}

/// Who asks whom for whose identity.
struct Subject {
    agent: Arc<Agent>,
    workload: config::Workload,
    selected: SelectedBy,
    pace: Pace,
}

struct Subscription {
    asked: Asked,
    /// Of whom the agent was asked, if it was asked by process.
    process: Option<Process>,
    messages: Messages,
    /// Until when it must have answered; `None`: it has.
    first_by: Option<Instant>,
}

/// The agent's last word on the workload.
#[derive(Default)]
struct Offered {
    issued: Option<Issued>,
    federates_with: Vec<TrustDomain>,
    /// Nothing is offered any more: why, and from when on that counts. An
    /// entry that is replaced is gone for a moment.
    withdrawn: Option<(String, Instant)>,
}

/// What happens first.
enum Event {
    Message(Result<Zeroizing<Vec<u8>>, CallError>),
    Bundles(bool),
    Withdrawn,
    Silent,
    ProcessEnded,
}

impl Updates for Following {
    fn next(&mut self, standing: Standing) -> Next<'_> {
        Box::pin(async move {
            loop {
                let news = match &self.subscription {
                    Some(_) => self.attend().await?,
                    None => self.subscribe(standing.failures).await?,
                };
                if let Some(update) = news {
                    return Ok(update);
                }
            }
        })
    }
}

impl Subject {
    async fn subscribe(&self, failures: u32) -> Result<Subscription, SourceError> {
        if failures > 0 {
            until_worth_a_try(self.agent.socket(), self.pace.backoff(failures)).await;
        }
        let (asked, process) = match Asked::of(&self.selected, &self.workload.name) {
            Some(asked) => (asked, None),
            None => {
                let process = self.process(failures > 0).await?;
                (Asked::Pid(process.pid()), Some(process))
            }
        };
        let request = match &asked {
            Asked::Selectors(selectors) => messages::ask_by_selectors(selectors),
            Asked::Pid(pid) => messages::ask_by_pid(*pid),
        };
        let messages = self.agent.call(SUBSCRIBE_TO_SVIDS, &request).await;
        Ok(Subscription {
            asked,
            process,
            messages: messages.map_err(|error| self.explained(&error))?,
            first_by: Some(Instant::now() + FIRST_MESSAGE),
        })
    }

    /// `patient`: waits for one that is not there, since that was said.
    async fn process(&self, patient: bool) -> Result<Process, SourceError> {
        loop {
            match Process::find(&self.workload.place).await {
                Ok(process) => return Ok(process),
                Err(ProcessError::None) if patient => sleep(LOOK).await,
                Err(error) => return Err(SourceError::Load(error.to_string())),
            }
        }
    }

    fn id(&self) -> &SpiffeId {
        &self.workload.spiffe_id
    }

    fn explained(&self, error: &CallError) -> SourceError {
        let trust_domain = self.id().trust_domain_str();
        SourceError::Load(explain::call(error, self.agent.socket(), trust_domain))
    }
}

impl Following {
    /// Asks the agent. News of bundles do not wait for that.
    async fn subscribe(&mut self, failures: u32) -> Result<Option<Update>, SourceError> {
        let mut asking = pin!(self.subject.subscribe(failures));
        loop {
            tokio::select! {
                subscription = &mut asking => {
                    self.subscription = Some(subscription?);
                    return Ok(None);
                }
                Ok(()) = self.bundles.changed() => {
                    // What is wrong with them is wrong with the subscription, too.
                    if self.bundles.borrow_and_update().problem.is_none() {
                        return Ok(self.update());
                    }
                }
            }
        }
    }

    /// Waits for something to happen. `None`: nothing that is worth a word.
    async fn attend(&mut self) -> Result<Option<Update>, SourceError> {
        let Some(subscription) = &mut self.subscription else {
            return Ok(None);
        };
        let event = tokio::select! {
            message = subscription.messages.next() => Event::Message(message),
            changed = self.bundles.changed() => Event::Bundles(changed.is_ok()),
            () = due(self.offered.withdrawn.as_ref().map(|(_, at)| *at)) => Event::Withdrawn,
            () = due(subscription.first_by) => Event::Silent,
            () = ended(subscription.process.as_ref()) => Event::ProcessEnded,
        };
        match event {
            Event::Message(Ok(message)) => {
                // Before this the number could have become another process's.
                if !subscription.process.as_ref().is_none_or(Process::is_there) {
                    self.subscription = None;
                    return Ok(None);
                }
                subscription.first_by = None;
                self.take(&message)?;
                Ok(self.update())
            }
            Event::Message(Err(error)) => {
                self.subscription = None;
                // Not withdrawn, as far as anybody knows now.
                self.offered.withdrawn = None;
                Err(self.subject.explained(&error))
            }
            Event::Silent => {
                self.subscription = None;
                Err(self.subject.explained(&CallError::TimedOut(FIRST_MESSAGE)))
            }
            Event::Bundles(true) => {
                let state = self.bundles.borrow_and_update();
                match (&state.known, &state.problem) {
                    (None, Some(problem)) => Err(SourceError::Load(problem.clone())),
                    _ => {
                        drop(state);
                        Ok(self.update())
                    }
                }
            }
            Event::Bundles(false) => {
                sleep(self.settle).await;
                Err(SourceError::Load(
                    "its bundles are no longer followed".into(),
                ))
            }
            Event::Withdrawn => {
                let withdrawn = self.offered.withdrawn.take();
                self.offered.issued = None;
                let why = withdrawn.map(|(why, _)| why).unwrap_or_default();
                Err(SourceError::Withdrawn(why))
            }
            Event::ProcessEnded => {
                self.subscription = None;
                Ok(None)
            }
        }
    }

    fn take(&mut self, message: &[u8]) -> Result<(), SourceError> {
        let garbled = || self.subject.explained(&CallError::Garbled);
        let offer = Offer::parse(message).map_err(|_damaged| garbled())?;
        match offer.choose(self.subject.id()) {
            Ok(issued) => {
                self.offered = Offered {
                    issued: Some(issued),
                    federates_with: offer.federates_with,
                    withdrawn: None,
                };
            }
            Err(fault) => {
                let asked = self.subscription.as_ref().map(|one| &one.asked);
                let why = asked.map(|asked| explain::offer(&fault, self.subject.id(), asked));
                let (_, since) = self.offered.withdrawn.take().unwrap_or_else(|| {
                    let since = Instant::now() + self.settle;
                    (String::new(), since)
                });
                self.offered.withdrawn = Some((why.unwrap_or_default(), since));
            }
        }
        Ok(())
    }

    /// What is offered, with the bundles that it is to be judged by.
    fn update(&self) -> Option<Update> {
        let state = self.bundles.borrow();
        let known = state.known.as_ref()?;
        let own = self.subject.id().trust_domain();
        let wanted = self.offered.federates_with.iter().chain([&own]);
        let bundles = wanted.filter_map(|name| known.get(name).cloned());
        let bundles: TrustBundles = bundles.collect();
        let issued = match &self.offered.withdrawn {
            None => self.offered.issued.as_ref(),
            Some(_) => None,
        };
        Some(Update {
            issued: issued.map(|issued| Issued {
                chain: issued.chain.clone(),
                key: Arc::clone(&issued.key),
            }),
            bundles: Some(bundles),
            complaint: None,
        })
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

async fn ended(process: Option<&Process>) {
    match process {
        Some(process) => process.ended().await,
        None => pending().await,
    }
}
