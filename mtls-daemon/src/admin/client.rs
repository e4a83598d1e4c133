//! The operator's end of the admin socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::policy::Question;
use crate::reason::Reason;

use super::reply::{
    CertificatesReply, ConnectionsReply, EnrolQuestion, EnrolReply, ErrorReply, PolicyTestReply,
    StatusReply, StrictReply,
};

/// How long an answer that waits for nothing may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    #[error("no daemon answers at {0}: {1}")]
    Unreachable(PathBuf, #[source] io::Error),
    #[error("{0} is for root only: ask as root")]
    NotRoot(PathBuf),
    #[error("the daemon at {0} did not answer in {1:?}: look at its log")]
    Silent(PathBuf, Duration),
    #[error("the daemon ended the conversation: {0}")]
    Broken(#[source] hyper::Error),
    #[error("the daemon's answer cannot be read, its version may differ: {0}")]
    Garbled(#[source] serde_json::Error),
    #[error("{}{detail}", reason.map(|reason| format!("{reason}: ")).unwrap_or_default())]
    Refused {
        reason: Option<Reason>,
        detail: String,
    },
}

/// An answer, and the JSON that it came as.
pub struct Answer<T> {
    pub reply: T,
    pub json: Bytes,
}

pub async fn status(socket: &Path) -> Result<Answer<StatusReply>, ClientError> {
    ask(socket, Method::GET, "/v1/status", Bytes::new(), PATIENCE).await
}

pub async fn certificates(socket: &Path) -> Result<Answer<CertificatesReply>, ClientError> {
    ask(
        socket,
        Method::GET,
        "/v1/certificates",
        Bytes::new(),
        PATIENCE,
    )
    .await
}

pub async fn connections(socket: &Path) -> Result<Answer<ConnectionsReply>, ClientError> {
    ask(
        socket,
        Method::GET,
        "/v1/connections",
        Bytes::new(),
        PATIENCE,
    )
    .await
}

pub async fn strict(socket: &Path) -> Result<Answer<StrictReply>, ClientError> {
    ask(socket, Method::GET, "/v1/strict", Bytes::new(), PATIENCE).await
}

/// Answered at once, or within `question.wait`.
pub async fn enrol(
    socket: &Path,
    question: &EnrolQuestion,
) -> Result<Answer<EnrolReply>, ClientError> {
    let patience = question.wait + PATIENCE;
    ask(socket, Method::POST, "/v1/enrol", body(question)?, patience).await
}

pub async fn policy_test(
    socket: &Path,
    question: &Question,
) -> Result<Answer<PolicyTestReply>, ClientError> {
    let body = body(question)?;
    ask(socket, Method::POST, "/v1/policy/test", body, PATIENCE).await
}

fn body(question: &impl Serialize) -> Result<Bytes, ClientError> {
    let body = serde_json::to_vec(question).map_err(ClientError::Garbled)?;
    Ok(Bytes::from(body))
}

async fn ask<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &'static str,
    body: Bytes,
    patience: Duration,
) -> Result<Answer<T>, ClientError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => ClientError::NotRoot(socket.to_owned()),
            _ => ClientError::Unreachable(socket.to_owned(), error),
        })?;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = http::Uri::from_static(path);
    let host = header::HeaderValue::from_static("mtls-daemon");
    request.headers_mut().insert(header::HOST, host);
    let exchange = timeout(patience, exchange(stream, request)).await;
    let (status, json) =
        exchange.map_err(|_elapsed| ClientError::Silent(socket.to_owned(), patience))??;
    match status {
        StatusCode::OK => {
            let reply = serde_json::from_slice(&json).map_err(ClientError::Garbled)?;
            Ok(Answer { reply, json })
        }
        StatusCode::FORBIDDEN => Err(ClientError::NotRoot(socket.to_owned())),
        _ => {
            let error: ErrorReply = serde_json::from_slice(&json).map_err(ClientError::Garbled)?;
            Err(ClientError::Refused {
                reason: error.reason,
                detail: error.detail,
            })
        }
    }
}

async fn exchange(
    stream: UnixStream,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), ClientError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(ClientError::Broken)?;
    let answered = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, body))
    };
    let mut connection = std::pin::pin!(connection);
    let mut answered = std::pin::pin!(answered);
    tokio::select! {
        biased;
        answer = &mut answered => answer.map_err(ClientError::Broken),
        ended = &mut connection => {
            ended.map_err(ClientError::Broken)?;
            // What was read before the end is still to be taken.
            answered.await.map_err(ClientError::Broken)
        }
    }
}
