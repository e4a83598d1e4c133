//! One kind's watch: a list first, streamed where the API server can, then
//! every change; after an interruption again from where it was.

use std::fmt::Debug;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures::StreamExt;
use kube::Api;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff, Event, InitialListStrategy};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use crate::api_server::{status_of, watch_trouble};

use super::ANSWER_WITHIN;
use super::store::News;

/// What a watch tells.
pub(super) enum Told {
    News(News),
    /// It works, or why not.
    State(&'static str, Result<(), String>),
}

/// What a watch needs that is forbidden.
const RIGHTS: &str =
    "let the daemon's account list and watch them (deploy/chart/templates/rbac.yaml)";

/// What all watches of a daemon share.
#[derive(Clone)]
pub(super) struct Teller {
    told: mpsc::Sender<Told>,
    /// Rung when a watch works that had failed for a while.
    again: Rc<Notify>,
}

impl Teller {
    pub(super) fn to(told: mpsc::Sender<Told>) -> Self {
        let again = Rc::default();
        Self { told, again }
    }

    /// Whether anybody listens.
    async fn tell(&self, told: Told) -> bool {
        self.told.send(told).await.is_ok()
    }
}

/// An attempt that takes longer is a watch with nothing to tell, or an API
/// server that is stuck: it is asked for something else.
const SILENCE: Duration = Duration::from_secs(6);
/// So many failures, one after another, are an outage: some five seconds.
const OUTAGE: u32 = 3;

/// Of one watch, between its failures: each twice as long as the one before, up
/// to half a minute and as much again by chance, and over when any watch of
/// this daemon works again.
struct Pauses {
    next: DefaultBackoff,
    failures: u32,
    again: Rc<Notify>,
}

impl Pauses {
    fn new(again: &Rc<Notify>) -> Self {
        Self {
            next: DefaultBackoff::default(),
            failures: 0,
            again: Rc::clone(again),
        }
    }

    async fn after_failure(&mut self) {
        self.failures = self.failures.saturating_add(1);
        let Some(pause) = self.next.next() else {
            return;
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = self.again.notified() => {}
        }
    }

    /// A watch that only stumbles hurries nobody.
    fn works(&mut self) {
        if self.failures >= OUTAGE {
            self.again.notify_waiters();
        }
        self.failures = 0;
        self.next.reset();
    }
}

/// What it means that the API server has none of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// It is older than the kind.
    IsEmpty,
    /// What was told of them stands until it is said otherwise.
    IsTrouble,
}

/// Watches until nobody listens any more.
pub(super) async fn objects<K>(
    what: &'static str,
    api: Api<K>,
    config: watcher::Config,
    missing: Missing,
    news: impl Fn(Box<Event<K>>) -> News,
    teller: Teller,
) where
    K: kube::Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut list = InitialListStrategy::StreamingList;
    let mut pauses = Pauses::new(&teller.again);
    loop {
        let config = watcher::Config {
            initial_list_strategy: list.clone(),
            ..config.clone()
        };
        let mut events = pin!(watcher::watcher(api.clone(), config));
        let mut works = false;
        loop {
            let next = match works {
                true => Ok(events.next().await),
                false => timeout(SILENCE, events.next()).await,
            };
            let event = match next {
                Ok(None) => break,
                Err(_) if !answers(&api).await => continue,
                // It goes on where it was, and there is no news.
                Err(_) => None,
                Ok(Some(Ok(event))) => Some(event),
                Ok(Some(Err(error)))
                    if list == InitialListStrategy::StreamingList && cannot_stream(&error) =>
                {
                    tracing::info!(what, "this API server does not stream lists");
                    list = InitialListStrategy::ListWatch;
                    break;
                }
                Ok(Some(Err(error))) => {
                    works = false;
                    let state = if missing == Missing::IsEmpty && is_not_served(&error) {
                        for event in [Event::Init, Event::InitDone] {
                            teller.tell(Told::News(news(Box::new(event)))).await;
                        }
                        Ok(())
                    } else {
                        Err(watch_trouble(what, &error, RIGHTS))
                    };
                    if !teller.tell(Told::State(what, state)).await {
                        return;
                    }
                    pauses.after_failure().await;
                    continue;
                }
            };
            if !works {
                works = true;
                pauses.works();
                teller.tell(Told::State(what, Ok(()))).await;
            }
            if let Some(event) = event
                && !teller.tell(Told::News(news(Box::new(event)))).await
            {
                return;
            }
        }
    }
}

/// Whether the API server answers at all, be it with a refusal.
async fn answers<K>(api: &Api<K>) -> bool
where
    K: kube::Resource + Clone,
{
    let client = api.clone().into_client();
    let said = timeout(ANSWER_WITHIN, client.apiserver_version()).await;
    matches!(said, Ok(Ok(_) | Err(kube::Error::Api(_))))
}

/// The answer to `sendInitialEvents` where streaming lists are unknown or off.
fn cannot_stream(error: &watcher::Error) -> bool {
    status_of(error).is_some_and(|status| {
        matches!(status.code, 400 | 422) || status.message.contains("RequestWatchProgress")
    })
}

fn is_not_served(error: &watcher::Error) -> bool {
    status_of(error).is_some_and(|status| status.code == 404)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// Two watches, one of them failed so often, and the other in its longest pause.
    async fn waits(failures: u32) -> Duration {
        let again = Rc::default();
        let mut other = Pauses::new(&again);
        for _ in 0..8 {
            other.after_failure().await;
        }
        let mut works = Pauses::new(&again);
        for _ in 0..failures {
            works.after_failure().await;
        }
        let from = Instant::now();
        tokio::join!(other.after_failure(), async { works.works() });
        from.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_works_again_ends_the_pauses_of_all() {
        assert_eq!(waits(OUTAGE).await, Duration::ZERO);
        // Nobody's long pause ends because another has stumbled.
        assert!(waits(OUTAGE - 1).await >= Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_works_begins_with_short_pauses_again() {
        let mut pauses = Pauses::new(&Rc::default());
        for _ in 0..8 {
            pauses.after_failure().await;
        }
        pauses.works();
        let from = Instant::now();
        pauses.after_failure().await;
        assert!(from.elapsed() < Duration::from_secs(2));
    }
}
