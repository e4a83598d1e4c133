//! The operator's questions, on the Unix socket.

use std::convert::Infallible;
use std::fmt::Display;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::metrics;
use crate::policy::Question;
use crate::reason::Reason;

use super::Desk;
use super::door::Limits;
use super::reply::{
    CertificatesReply, ConnectionsReply, DescriptorsReply, EnrolQuestion, EnrolReply, ErrorReply,
    HookReply, PolicyTestReply, SCHEMA, StatusReply, StrictReply, ThreadReply,
};
use super::view::{NodeView, WorkloadState};

/// Longer than anybody waits for a workload.
pub(super) const LIMITS: Limits = Limits {
    most: 256,
    time: Duration::from_secs(3700),
};

const MAX_QUESTION: usize = 64 * 1024;
const MAX_WAIT: Duration = Duration::from_secs(3600);

pub(super) async fn serve(desk: Rc<Desk>, stream: UnixStream) {
    let root = match stream.peer_cred() {
        Ok(peer) => {
            let root = peer.uid() == 0;
            if !root {
                tracing::warn!(
                    uid = peer.uid(),
                    pid = peer.pid(),
                    "refused at the admin socket"
                );
            }
            root
        }
        Err(error) => {
            tracing::warn!(%error, "refused at the admin socket: nobody knows who it is");
            false
        }
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let desk = Rc::clone(&desk);
        async move {
            let response = match root {
                true => answer(&desk, request).await,
                false => error(StatusCode::FORBIDDEN, None, "only root may ask"),
            };
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(5))
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "an operator went away");
    }
}

async fn answer(desk: &Desk, request: Request<Incoming>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/v1/status") => json(StatusCode::OK, &desk.status()),
        (&Method::GET, "/v1/connections") => {
            let connections = desk.view.connections().await;
            let reply = ConnectionsReply {
                schema: SCHEMA,
                time: SystemTime::now(),
                connections,
            };
            json(StatusCode::OK, &reply)
        }
        (&Method::GET, "/v1/certificates") => {
            let reply = CertificatesReply {
                schema: SCHEMA,
                time: SystemTime::now(),
                all: desk.view.certificates(),
            };
            json(StatusCode::OK, &reply)
        }
        (&Method::GET, "/v1/strict") => {
            let reply = StrictReply {
                schema: SCHEMA,
                workloads: desk.view.strict_readiness(),
            };
            json(StatusCode::OK, &reply)
        }
        (&Method::POST, "/v1/policy/test") => policy_test(desk, request).await,
        (&Method::POST, "/v1/enrol") => enrol(desk, request).await,
        (method, path) => {
            let detail = format!("there is no {method} {path} at this daemon");
            error(StatusCode::NOT_FOUND, None, &detail)
        }
    }
}

/// The question in a request's body, or what to answer.
async fn question<T: DeserializeOwned>(
    request: Request<Incoming>,
) -> Result<T, Response<Full<Bytes>>> {
    let bad = |failure: &dyn Display| error(StatusCode::BAD_REQUEST, None, &failure.to_string());
    let body = Limited::new(request.into_body(), MAX_QUESTION).collect();
    let body = body.await.map_err(|failure| bad(&failure))?.to_bytes();
    serde_json::from_slice(&body).map_err(|failure| bad(&failure))
}

async fn policy_test(desk: &Desk, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let question: Question = match question(request).await {
        Ok(question) => question,
        Err(bad) => return bad,
    };
    match desk.view.policy_test(&question) {
        Ok(explanation) => {
            let reply = PolicyTestReply {
                schema: SCHEMA,
                explanation,
            };
            json(StatusCode::OK, &reply)
        }
        Err(none) => error(StatusCode::CONFLICT, None, &none.to_string()),
    }
}

async fn enrol(desk: &Desk, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let question: EnrolQuestion = match question(request).await {
        Ok(question) => question,
        Err(bad) => return bad,
    };
    // Watch before asking: what changes in between is not missed.
    let mut changes = desk.view.changes();
    let workload = match desk.view.enrol(question.request).await {
        Ok(workload) => workload,
        Err(refusal) => {
            return error(StatusCode::CONFLICT, Some(refusal.reason), &refusal.detail);
        }
    };
    let settled = async {
        loop {
            changes.mark_unchanged();
            match state_of(&*desk.view, &workload) {
                WorkloadState::Absent { .. } | WorkloadState::Waiting { .. } => {}
                settled => return settled,
            }
            if changes.changed().await.is_err() {
                return state_of(&*desk.view, &workload);
            }
        }
    };
    let state = timeout(question.wait.min(MAX_WAIT), settled)
        .await
        .unwrap_or_else(|_elapsed| state_of(&*desk.view, &workload));
    let reply = EnrolReply {
        schema: SCHEMA,
        workload,
        state,
    };
    json(StatusCode::OK, &reply)
}

fn state_of(view: &dyn NodeView, workload: &str) -> WorkloadState {
    let mut workloads = view.status().workloads.into_iter();
    match workloads.find(|status| status.name == workload) {
        Some(status) => status.state,
        None => WorkloadState::Failed {
            reason: Reason::WorkloadRemoved,
            detail: "it was removed while it was being enrolled".to_owned(),
        },
    }
}

impl Desk {
    fn status(&self) -> StatusReply {
        let hooks = self.view.hooks().into_iter().map(|state| HookReply {
            hook: state.hook.word().to_owned(),
            attached: state.attached,
        });
        let threads = self
            .heartbeats
            .ages()
            .into_iter()
            .map(|(name, silent)| ThreadReply { name, silent });
        StatusReply {
            schema: SCHEMA,
            time: SystemTime::now(),
            status: self.view.status(),
            ready: self.ready(),
            healthy: self.healthy(),
            hooks: hooks.collect(),
            threads: threads.collect(),
            descriptors: metrics::descriptors().map(|(used, most)| DescriptorsReply { used, most }),
        }
    }
}

fn json(status: StatusCode, reply: &impl Serialize) -> Response<Full<Bytes>> {
    let (status, body) = match serde_json::to_vec(reply) {
        Ok(body) => (status, body),
        // A time before 0001 or after 9999 is the only value that has no JSON.
        Err(failure) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("{{\"schema\":{SCHEMA},\"reason\":\"internal\",\"detail\":\"{failure}\"}}")
                .into_bytes(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let format = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, format);
    response
}

fn error(status: StatusCode, reason: Option<Reason>, detail: &str) -> Response<Full<Bytes>> {
    let reply = ErrorReply {
        schema: SCHEMA,
        reason,
        detail: detail.to_owned(),
    };
    json(status, &reply)
}
