//! Requests to servers that the configuration names: one connection each, with
//! a limit on everything.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, LOCATION};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::pem;
use super::watched::Content;
use crate::config::ServerUrl;

/// A server, as it is configured.
pub(super) struct Server {
    pub(super) url: ServerUrl,
    /// The roots that it is verified against, and no others.
    pub(super) ca: Option<PathBuf>,
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Where it sends us instead.
    pub(super) location: Option<String>,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum ServerError {
    #[error("{0}")]
    Ca(String),
    #[error("connecting: {0}")]
    Connect(#[source] io::Error),
    #[error("the TLS handshake: {0}")]
    Tls(#[source] io::Error),
    #[error("it did not answer within {} s", LIMIT.as_secs())]
    TimedOut,
    #[error("the exchange broke: {0}")]
    Broken(String),
}

/// A whole request, from the connection to the end of its answer.
const LIMIT: Duration = Duration::from_secs(15);
const CONNECT: Duration = Duration::from_secs(5);
const MAX_ANSWER: usize = 1 << 20;
/// Of a server's own words, what is shown.
const MAX_TEXT: usize = 400;

impl Server {
    pub(super) async fn ask(&self, request: Request<Full<Bytes>>) -> Result<Answer, ServerError> {
        timeout(LIMIT, Box::pin(self.exchange(request)))
            .await
            .or(Err(ServerError::TimedOut))?
    }

    async fn exchange(&self, mut request: Request<Full<Bytes>>) -> Result<Answer, ServerError> {
        let host = self.url.to_string();
        let (_, host) = host.split_once("://").unwrap_or_default();
        let host = HeaderValue::from_str(host).map_err(|e| ServerError::Broken(e.to_string()))?;
        request.headers_mut().insert(HOST, host);
        let connecting = TcpStream::connect((self.url.host.as_str(), self.url.port));
        let stream = timeout(CONNECT, connecting)
            .await
            .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
            .map_err(ServerError::Connect)?;
        if !self.url.tls {
            return talk(stream, request).await;
        }
        let name = ServerName::try_from(self.url.host.clone())
            .map_err(|e| ServerError::Connect(io::Error::other(e)))?;
        let tls = TlsConnector::from(self.tls().await?);
        let stream = tls.connect(name, stream).await.map_err(ServerError::Tls)?;
        talk(stream, request).await
    }

    /// Read anew for each connection: the file may be replaced.
    async fn tls(&self) -> Result<Arc<ClientConfig>, ServerError> {
        let file = self.ca.clone().unwrap_or_default();
        let failed = |what: &dyn fmt::Display| ServerError::Ca(what.to_string());
        let read = move || Content::read(&file).parse(pem::certificates);
        let read = tokio::task::spawn_blocking(read).await;
        let certificates = read.map_err(|e| failed(&e))?.map_err(ServerError::Ca)?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate).map_err(|e| failed(&e))?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

async fn talk<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, ServerError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |e: hyper::Error| ServerError::Broken(e.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let exchange = async {
        let (head, body) = sender
            .send_request(request)
            .await
            .map_err(broken)?
            .into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|e| ServerError::Broken(e.to_string()))?;
        let location = head.status.is_redirection().then(|| {
            let place = head.headers.get(LOCATION).map(HeaderValue::as_bytes);
            shown(&String::from_utf8_lossy(place.unwrap_or_default()))
        });
        Ok(Answer {
            status: head.status,
            location,
            body: body.to_bytes(),
        })
    };
    // Both on this task: when the exchange is given up, so is the connection.
    tokio::select! {
        answer = exchange => answer,
        Err(ended) = connection => Err(broken(ended)),
    }
}

/// In one line, and not too long.
pub(super) fn shown(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    line.chars()
        .take(MAX_TEXT)
        .flat_map(char::escape_debug)
        .collect()
}
