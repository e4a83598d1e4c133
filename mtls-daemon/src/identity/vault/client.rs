//! Requests to a Vault, in its own manner.

use std::fmt;
use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use thiserror::Error;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::config::{ServerUrl, Vault};
use crate::identity::server::{Answer, Server, ServerError, shown};
use crate::identity::watched::Content;

/// A server, as it is configured.
pub(super) struct Client {
    server: Server,
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
    #[error(transparent)]
    Server(#[from] ServerError),
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

const AT_ONCE: usize = 8;
/// Which version understands X-Vault-Request has been there from the first.
const REQUEST: &str = "x-vault-request";
const TOKEN: &str = "x-vault-token";
const NAMESPACE: &str = "x-vault-namespace";

impl Client {
    pub(super) fn new(config: &Vault) -> Self {
        Self {
            server: Server {
                url: config.address.clone(),
                ca: config.server_ca.clone(),
            },
            namespace: config.namespace.clone(),
            at_once: Semaphore::new(AT_ONCE),
        }
    }

    pub(super) fn url(&self) -> &ServerUrl {
        &self.server.url
    }

    /// POSTs to `path` below /v1/, and returns the JSON of the answer.
    pub(super) async fn post(
        &self,
        path: &str,
        token: Option<&Secret>,
        body: &Value,
    ) -> Result<Value, CallError> {
        let _turn = self.at_once.acquire().await;
        self.exchange(Method::POST, path, token, Some(body)).await
    }

    /// GETs `path` below /v1/.
    pub(super) async fn get(&self, path: &str, token: &Secret) -> Result<Value, CallError> {
        self.exchange(Method::GET, path, Some(token), None).await
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        token: Option<&Secret>,
        body: Option<&Value>,
    ) -> Result<Value, CallError> {
        let unfit = |e: http::Error| CallError::Garbled(e.to_string());
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v1/{path}"))
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
        let request = request.body(Full::from(body)).map_err(unfit)?;
        judged(self.server.ask(request).await?)
    }
}

/// What an answer means.
fn judged(answer: Answer) -> Result<Value, CallError> {
    let status = answer.status;
    let json = match &answer.body[..] {
        [] => Ok(Value::Null),
        body => serde_json::from_slice::<Value>(body),
    };
    if let Some(place) = answer.location {
        return Err(CallError::Redirected(place));
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
        let answer = |status: u16, location: Option<&str>, body: &'static [u8]| Answer {
            status: StatusCode::from_u16(status).unwrap(),
            location: location.map(str::to_owned),
            body: body.into(),
        };
        let read = |status, body| judged(answer(status, None, body));
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
        let redirected = judged(answer(307, Some("https://other"), b""));
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
