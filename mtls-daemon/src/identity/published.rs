//! A revocation list where its issuer publishes it, fetched again and again.
//!
//! Lists are signed and say when the next one comes, so that what was fetched
//! goes on counting until then while its server is away.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::Full;
use tokio::time::sleep;

use super::crls::Part;
use super::pace::Pace;
use super::revocation::Lists;
use super::server::{Answer, Server, ServerError};
use crate::config::FileUrl;

/// Gives what is at `url` whenever that changes, and what is in the way of it.
pub(super) async fn follow(
    url: FileUrl,
    server_ca: Option<PathBuf>,
    poll: Duration,
    pace: Pace,
    give: impl Fn(Part),
) {
    let server = Server {
        url: url.server.clone(),
        ca: server_ca,
    };
    let mut held: Option<(Vec<u8>, Arc<Lists>)> = None;
    let mut told = None;
    let mut failures = 0;
    loop {
        let (complaint, is_new) = match fetch(&server, &url).await {
            Ok(text) if held.as_ref().is_some_and(|(held, _)| *held == text) => (None, false),
            Ok(text) => {
                let mut lists = Lists::default();
                match lists.add(&text) {
                    Ok(()) => {
                        held = Some((text, Arc::new(lists)));
                        (None, true)
                    }
                    Err(error) => (Some(format!("{url}: {error}")), false),
                }
            }
            Err(why) => (Some(why), false),
        };
        failures = if complaint.is_some() { failures + 1 } else { 0 };
        // Every change makes workloads' session tickets void: only true ones.
        if is_new || told.as_ref() != Some(&complaint) {
            give(Part {
                lists: held.as_ref().map(|(_, lists)| Arc::clone(lists)),
                complaint: complaint.clone(),
            });
            told = Some(complaint);
        }
        sleep(match failures {
            0 => poll,
            _ => pace.backoff(failures).min(poll),
        })
        .await;
    }
}

async fn fetch(server: &Server, url: &FileUrl) -> Result<Vec<u8>, String> {
    let request = Request::get(&url.path).body(Full::default());
    let request = request.map_err(|error| format!("{url}: {error}"))?;
    let Answer {
        status,
        location,
        body,
    } = server.ask(request).await.map_err(|error| match error {
        ServerError::Ca(why) => format!("server_ca: {why}"),
        error => format!("{url}: {error}"),
    })?;
    match location {
        Some(place) => Err(format!(
            "{url}: it sends elsewhere ({place}); name that place"
        )),
        None if status.is_success() => Ok(body.to_vec()),
        None => Err(format!("{url}: {status}")),
    }
}
