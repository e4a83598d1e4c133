//! Requests to a Vault: one connection each, with a limit on everything.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::config::{ServerUrl, Vault};
use crate::identity::pem;
use crate::identity::watched::Content;

/// A server, as it is configured.
pub(super) struct Client {
    url: ServerUrl,
    server_ca: Option<PathBuf>,
    namespace: Option<String>,
    /// All workloads of a node renew at once when it starts.
    at_once: Semaphore,
}

/// A secret that a server gave or wants: a token, a secret_id.
#[derive(Clone)]
pub(super) struct Secret(Arc<Zeroizing<String>>);

/// Why a request brought nothing.
#[derive(Debug, Error)]
pub(super) enum CallError {
    #[error("{0}")]
    ServerCa(String),
    #[error("connecting: {0}")]
    Connect(#[source] io::Error),
    #[error("the TLS handshake: {0}")]
    Tls(#[source] io::Error),
    #[error("it did not answer within {} s", LIMIT.as_secs())]
    TimedOut,
    #[error("the exchange broke: {0}")]
    Broken(String),
    #[error("it sends elsewhere ({0})")]
    Redirected(String),
    #[error("its answer is not what was asked for: {0}")]
    Garbled(String),
    #[error("{status}: {}", errors.join("; "))]
    Refused {
        status: StatusCode,
        /// The server's own words.
        errors: Vec<String>,
    },
}

/// A whole request, from the connection to the end of its answer.
const LIMIT: Duration = Duration::from_secs(15);
const CONNECT: Duration = Duration::from_secs(5);
const MAX_ANSWER: usize = 1 << 20;
const AT_ONCE: usize = 8;
/// Of the server's own words, what is shown.
const MAX_TEXT: usize = 400;
/// Which version understands X-Vault-Request has been there from the first.
const REQUEST: &str = "x-vault-request";
const TOKEN: &str = "x-vault-token";
const NAMESPACE: &str = "x-vault-namespace";

impl Client {
    pub(super) fn new(config: &Vault) -> Self {
        Self {
            url: config.address.clone(),
            server_ca: config.server_ca.clone(),
            namespace: config.namespace.clone(),
            at_once: Semaphore::new(AT_ONCE),
        }
    }

    pub(super) fn url(&self) -> &ServerUrl {
        &self.url
    }

    /// POSTs to `path` below /v1/, and returns the JSON of the answer.
    pub(super) async fn post(
        &self,
        path: &str,
        token: Option<&Secret>,
        body: &Value,
    ) -> Result<Value, CallError> {
        let _turn = self.at_once.acquire().await;
        let exchange = Box::pin(self.exchange(Method::POST, path, token, Some(body)));
        timeout(LIMIT, exchange)
            .await
            .or(Err(CallError::TimedOut))?
    }

    /// GETs `path` below /v1/.
    pub(super) async fn get(&self, path: &str, token: &Secret) -> Result<Value, CallError> {
        let exchange = Box::pin(self.exchange(Method::GET, path, Some(token), None));
        timeout(LIMIT, exchange)
            .await
            .or(Err(CallError::TimedOut))?
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        token: Option<&Secret>,
        body: Option<&Value>,
    ) -> Result<Value, CallError> {
        let request = self.request(method, path, token, body)?;
        let connecting = TcpStream::connect((self.url.host.as_str(), self.url.port));
        let stream = timeout(CONNECT, connecting)
            .await
            .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
            .map_err(CallError::Connect)?;
        if !self.url.tls {
            return talk(stream, request).await;
        }
        let name = ServerName::try_from(self.url.host.clone())
            .map_err(|e| CallError::Connect(io::Error::other(e)))?;
        let tls = TlsConnector::from(self.tls().await?);
        let stream = tls.connect(name, stream).await.map_err(CallError::Tls)?;
        talk(stream, request).await
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        token: Option<&Secret>,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, CallError> {
        let unfit = |e: http::Error| CallError::Garbled(e.to_string());
        let host = self.url.to_string();
        let (_, host) = host.split_once("://").unwrap_or_default();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v1/{path}"))
            .header(HOST, host)
            .header(CONTENT_TYPE, "application/json")
            .header(REQUEST, "true");
        if let Some(namespace) = &self.namespace {
            request = request.header(NAMESPACE, namespace);
        }
        if let Some(Secret(token)) = token {
            let mut value = HeaderValue::from_str(token).map_err(|e| unfit(e.into()))?;
            value.set_sensitive(true);
            request = request.header(TOKEN, value);
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        request.body(Full::from(body)).map_err(unfit)
    }

    /// Read anew for each connection: the file may be replaced.
    async fn tls(&self) -> Result<Arc<ClientConfig>, CallError> {
        let file = self.server_ca.clone().unwrap_or_default();
        let failed = |what: &dyn fmt::Display| CallError::ServerCa(what.to_string());
        let read = move || Content::read(&file).parse(pem::certificates);
        let read = tokio::task::spawn_blocking(read).await;
        let certificates = read.map_err(|e| failed(&e))?.map_err(CallError::ServerCa)?;
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

async fn talk<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Value, CallError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |e: hyper::Error| CallError::Broken(e.to_string());
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
        let body = body.map_err(|e| CallError::Broken(e.to_string()))?;
        judged(head.status, head.headers.get("location"), &body.to_bytes())
    };
    // Both on this task: when the exchange is given up, so is the connection.
    tokio::select! {
        answer = exchange => answer,
        Err(ended) = connection => Err(broken(ended)),
    }
}

/// What an answer means.
fn judged(
    status: StatusCode,
    location: Option<&HeaderValue>,
    body: &[u8],
) -> Result<Value, CallError> {
    let json = match body {
        [] => Ok(Value::Null),
        body => serde_json::from_slice::<Value>(body),
    };
    if status.is_redirection() {
        let place = location.map(|place| shown(&String::from_utf8_lossy(place.as_bytes())));
        return Err(CallError::Redirected(place.unwrap_or_default()));
    }
    if status.is_success() {
        return json.map_err(|e| CallError::Garbled(e.to_string()));
    }
    let errors = json.ok().and_then(|json| {
        let errors = json.get("errors")?.as_array()?.iter();
        Some(errors.filter_map(|one| one.as_str().map(shown)).collect())
    });
    Err(CallError::Refused {
        status,
        errors: errors.unwrap_or_default(),
    })
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

impl Secret {
    pub(super) fn new(text: &str) -> Self {
        Self(Arc::new(Zeroizing::new(text.to_owned())))
    }

    /// What a file holds, without the end of its line.
    pub(super) async fn read(file: &std::path::Path) -> Result<Self, String> {
        let path = file.to_owned();
        let read = tokio::task::spawn_blocking(move || {
            Content::read(&path).parse(|bytes| {
                let text = std::str::from_utf8(bytes).or(Err("it is no text"))?;
                match text.trim() {
                    "" => Err("it is empty"),
                    text => Ok(Self::new(text)),
                }
            })
        });
        read.await.map_err(|e| e.to_string())?
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_mean_what_their_status_says() {
        let read =
            |status: u16, body: &[u8]| judged(StatusCode::from_u16(status).unwrap(), None, body);
        assert_eq!(read(200, b"{\"a\":1}").unwrap(), json!({"a": 1}));
        assert_eq!(read(204, b"").unwrap(), Value::Null);
        assert!(matches!(read(200, b"<html>"), Err(CallError::Garbled(_))));
        let refused = read(
            403,
            b"{\"errors\":[\"1 error occurred:\\n\\t* permission denied\\n\\n\"]}",
        );
        assert_eq!(
            refused.unwrap_err().to_string(),
            "403 Forbidden: 1 error occurred: * permission denied"
        );
        assert_eq!(
            read(502, b"<html>").unwrap_err().to_string(),
            "502 Bad Gateway: "
        );
        let elsewhere = HeaderValue::from_static("https://other");
        let redirected = judged(StatusCode::TEMPORARY_REDIRECT, Some(&elsewhere), b"");
        assert_eq!(
            redirected.unwrap_err().to_string(),
            "it sends elsewhere (https://other)"
        );
    }

    #[test]
    fn a_secret_is_never_shown() {
        assert_eq!(format!("{:?}", Secret::new("s.1234")), "Secret");
    }
}
