//! One kind's watch: a list first, streamed where the API server can, then
//! every change; after an interruption again from where it was.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, InitialListStrategy};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::api_server::root_cause;

use super::store::News;

/// What a watch tells.
pub(super) enum Told {
    News(News),
    /// It works, or why not.
    State(&'static str, Result<(), String>),
}

/// A watch that does not fail for longer than the longest pause (half a
/// minute, and as much again by chance) and an attempt works.
const SILENCE: Duration = Duration::from_secs(65);

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
    told: mpsc::Sender<Told>,
) where
    K: kube::Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut list = InitialListStrategy::StreamingList;
    loop {
        let config = watcher::Config {
            initial_list_strategy: list.clone(),
            ..config.clone()
        };
        let mut events = pin!(watcher::watcher(api.clone(), config).default_backoff());
        let mut works = false;
        loop {
            let next = match works {
                true => Ok(events.next().await),
                false => timeout(SILENCE, events.next()).await,
            };
            let Ok(next) = next else {
                // It goes on where it was, and there is no news.
                works = true;
                let _ = told.send(Told::State(what, Ok(()))).await;
                continue;
            };
            let Some(event) = next else {
                break;
            };
            let tell = match event {
                Ok(event) => {
                    if !works {
                        works = true;
                        // The receiver goes with the process.
                        let _ = told.send(Told::State(what, Ok(()))).await;
                    }
                    told.send(Told::News(news(Box::new(event)))).await
                }
                Err(error)
                    if list == InitialListStrategy::StreamingList && cannot_stream(&error) =>
                {
                    tracing::info!(what, "this API server does not stream lists");
                    list = InitialListStrategy::ListWatch;
                    break;
                }
                Err(error) if missing == Missing::IsEmpty && is_not_served(&error) => {
                    let _ = told.send(Told::News(news(Box::new(Event::Init)))).await;
                    let _ = told.send(Told::State(what, Ok(()))).await;
                    told.send(Told::News(news(Box::new(Event::InitDone)))).await
                }
                Err(error) => {
                    works = false;
                    let why = explain(what, &error);
                    told.send(Told::State(what, Err(why))).await
                }
            };
            if tell.is_err() {
                return;
            }
        }
    }
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

fn status_of(error: &watcher::Error) -> Option<&kube::core::Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(&**status),
        _ => None,
    }
}

fn explain(what: &str, error: &watcher::Error) -> String {
    let cause = std::error::Error::source(error);
    let remedy = match status_of(error).map(|status| status.code) {
        Some(401) => ": is the token, or the certificate, of the kubeconfig still valid?",
        Some(403) => {
            ": let the daemon's account list and watch them (deploy/chart/templates/rbac.yaml)"
        }
        _ => "",
    };
    let why = match (status_of(error), cause) {
        (Some(status), _) if !status.message.is_empty() => status.message.clone(),
        (_, Some(cause)) => root_cause(cause),
        (_, None) => error.to_string(),
    };
    format!("watching {what}: {why}{remedy}")
}
