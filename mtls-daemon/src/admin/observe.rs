//! What is seen from outside: /metrics, /healthz and /readyz. No key, no
//! peer-chosen text, and nothing that changes anything.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::readiness::{self, Verdict};
use crate::kubernetes::{Kind, Standing};
use crate::log;
use crate::metrics::{self, NextUpdate, NodeFigures};
use crate::spiffe::TrustDomain;

use super::Desk;
use super::door::Limits;
use super::strict::{Standing as StrictStanding, StrictReadiness};
use super::view::{CertificateStatus, ClusterStatus, RevocationStatus, RootStatus, WorkloadState};

pub(super) const LIMITS: Limits = Limits {
    most: 32,
    time: Duration::from_secs(10),
};

pub(super) async fn serve(desk: Rc<Desk>, stream: TcpStream) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(&desk, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(5))
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a reader of the metrics went away");
    }
}

fn answer(desk: &Desk, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned());
    }
    match request.uri().path() {
        "/metrics" => {
            let mut response = text(StatusCode::OK, desk.metrics_text());
            let format = header::HeaderValue::from_static(prometheus::TEXT_FORMAT);
            response.headers_mut().insert(header::CONTENT_TYPE, format);
            response
        }
        "/healthz" => judged("healthy", &desk.healthy()),
        "/readyz" => judged("ready", &desk.ready()),
        _ => text(
            StatusCode::NOT_FOUND,
            "there is /metrics, /healthz and /readyz\n".to_owned(),
        ),
    }
}

impl Desk {
    pub(super) fn healthy(&self) -> Verdict {
        readiness::healthy(&self.heartbeats.ages(), metrics::descriptors())
    }

    pub(super) fn ready(&self) -> Verdict {
        readiness::ready(&self.view.status(), &self.view.hooks(), SystemTime::now())
    }

    fn metrics_text(&self) -> String {
        let status = self.view.status();
        let kernel = self.view.kernel();
        let count = |wanted: fn(&WorkloadState) -> bool| {
            let workloads = status.workloads.iter();
            workloads.filter(|workload| wanted(&workload.state)).count()
        };
        let all = self.view.certificates();
        let node = NodeFigures {
            ready: readiness::ready(&status, &kernel.hooks, SystemTime::now()).good(),
            workloads_absent: count(|state| matches!(state, WorkloadState::Absent { .. })),
            workloads_waiting: count(|state| matches!(state, WorkloadState::Waiting { .. })),
            workloads_ready: count(|state| matches!(state, WorkloadState::Ready)),
            workloads_failed: count(|state| matches!(state, WorkloadState::Failed { .. })),
            workloads_not_enrolled: count(|state| {
                matches!(state, WorkloadState::NotEnrolled { .. })
            }),
            heartbeats: self.heartbeats.ages(),
            log_lines_dropped: log::dropped(),
            strict_losses: strict_losses(&self.view.strict_readiness()),
            policies: policies(status.cluster.as_ref()),
            roots_end: roots_end(&all.roots),
            sources: sources(&all.certificates),
            crls: status.revocation.iter().flat_map(next_updates).collect(),
        };
        self.metrics.render(&kernel, &node)
    }
}

/// Of workloads whose connections in clear the daemon sees.
fn strict_losses(all: &[StrictReadiness]) -> BTreeMap<String, usize> {
    let watched = all
        .iter()
        .filter(|one| one.standing != StrictStanding::Unwatched);
    watched
        .map(|one| (one.workload.clone(), one.losses.len()))
        .collect()
}

/// By kind and standing.
fn policies(cluster: Option<&ClusterStatus>) -> Vec<([&'static str; 2], usize)> {
    let all = cluster.map_or(&[][..], |cluster| &cluster.policies);
    let each =
        (Kind::ALL.into_iter()).flat_map(|kind| Standing::ALL.map(|standing| (kind, standing)));
    each.map(|(kind, standing)| {
        let these = all
            .iter()
            .filter(|it| (it.kind, it.standing) == (kind, standing));
        ([kind.word(), standing.word()], these.count())
    })
    .collect()
}

fn roots_end(roots: &[RootStatus]) -> BTreeMap<TrustDomain, SystemTime> {
    let mut ends = BTreeMap::new();
    for root in roots {
        let end = ends
            .entry(root.trust_domain.clone())
            .or_insert(root.not_after);
        *end = root.not_after.min(*end);
    }
    ends
}

fn sources(certificates: &[CertificateStatus]) -> BTreeMap<String, bool> {
    let mut sources = BTreeMap::new();
    for one in certificates {
        let healthy = sources.entry(one.source.clone()).or_insert(true);
        *healthy &= one.error.is_none();
    }
    sources
}

fn next_updates(of: &RevocationStatus) -> impl Iterator<Item = NextUpdate> {
    of.lists.iter().map(|list| NextUpdate {
        trust_domain: of.trust_domain.clone(),
        issuer: list.issuer.clone(),
        at: list.next_update,
    })
}

fn judged(word: &str, verdict: &Verdict) -> Response<Full<Bytes>> {
    let (status, mut body) = if verdict.good() {
        (StatusCode::OK, format!("{word}\n"))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not {word}\n"))
    };
    for problem in &verdict.problems {
        body.push_str(&format!("{problem}\n"));
    }
    for alarm in &verdict.alarms {
        body.push_str(&format!("alarm: {alarm}\n"));
    }
    text(status, body)
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
