//! gRPC as far as it takes to hear an agent's streams: HTTP/2 over its Unix
//! socket, one request, and messages until a status ends them.
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request, StatusCode};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// The agent behind a socket; its streams share one connection.
pub(super) struct Agent {
    socket: PathBuf,
    connection: Mutex<Option<SendRequest<Bytes>>>,
}

/// Why an agent says nothing, or nothing more.
#[derive(Debug, Error)]
pub(super) enum CallError {
    #[error("{0}")]
    Connect(#[source] io::Error),
    #[error("it did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    #[error("the connection broke: {0}")]
    Broken(#[from] h2::Error),
    #[error("it ended its stream")]
    Ended,
    #[error("it answered HTTP {0}, which is not gRPC")]
    NotGrpc(StatusCode),
    #[error("it answered in no form that is known here")]
    Garbled,
    #[error("{message} (gRPC status {code})")]
    Refused { code: u32, message: String },
}

/// Connecting, and opening a stream.
const LIMIT: Duration = Duration::from_secs(5);
/// A message holds a few certificates, or a federation's bundles.
const MAX_MESSAGE: usize = 4 << 20;
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;
const MAX_HEADERS: u32 = 16 << 10;

impl Agent {
    pub(super) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            connection: Mutex::new(None),
        }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Calls a method that answers in a stream.
    pub(super) async fn call(&self, method: &str, request: &[u8]) -> Result<Messages, CallError> {
        let opening = async {
            let connection = self.connection().await?;
            Messages::open(connection, method, request)
        };
        timeout(LIMIT, opening)
            .await
            .or(Err(CallError::TimedOut(LIMIT)))?
    }

    /// The one that is there, or a new one.
    async fn connection(&self) -> Result<SendRequest<Bytes>, CallError> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = held.take()
            && let Ok(connection) = connection.ready().await
        {
            *held = Some(connection.clone());
            return Ok(connection);
        }
        let stream = UnixStream::connect(&self.socket).await;
        let (connection, driver) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADERS)
            .enable_push(false)
            .handshake(stream.map_err(CallError::Connect)?)
            .await?;
        // Its streams say what went wrong with it; it ends with the last one.
        tokio::spawn(driver);
        let connection = connection.ready().await?;
        *held = Some(connection.clone());
        Ok(connection)
    }
}

/// A stream of messages.
pub(super) struct Messages {
    head: Option<ResponseFuture>,
    body: Option<RecvStream>,
    /// Received, and not yet looked at.
    rest: Bytes,
    partial: Partial,
}

impl Messages {
    fn open(
        mut connection: SendRequest<Bytes>,
        method: &str,
        request: &[u8],
    ) -> Result<Self, CallError> {
        let asked = Request::post(format!("http://localhost{method}"))
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .header("user-agent", "mtls-daemon")
            .body(())
            .or(Err(CallError::Garbled))?;
        let (head, mut body) = connection.send_request(asked, false)?;
        body.send_data(framed(request), true)?;
        Ok(Self {
            head: Some(head),
            body: None,
            rest: Bytes::new(),
            partial: Partial::default(),
        })
    }

    /// The next message; may be dropped half-way and called again.
    pub(super) async fn next(&mut self) -> Result<Zeroizing<Vec<u8>>, CallError> {
        if let Some(head) = &mut self.head {
            let (head, body) = head.await?.into_parts();
            self.head = None;
            if head.status != StatusCode::OK {
                return Err(CallError::NotGrpc(head.status));
            }
            // An answer without a message has its status up here.
            if head.headers.contains_key(STATUS) {
                return Err(refusal(&head.headers));
            }
            self.body = Some(body);
        }
        loop {
            if let Some(message) = self.partial.take_from(&mut self.rest)? {
                return Ok(message);
            }
            let body = self.body.as_mut().ok_or(CallError::Ended)?;
            match body.data().await {
                Some(data) => {
                    self.rest = data?;
                    body.flow_control().release_capacity(self.rest.len())?;
                }
                None => {
                    let trailers = body.trailers().await;
                    self.body = None;
                    return Err(match trailers? {
                        Some(trailers) => refusal(&trailers),
                        None => CallError::Ended,
                    });
                }
            }
        }
    }
}

/// A message that has not arrived as a whole. It may hold a key: wiped when
/// dropped, and never moved while it grows.
#[derive(Default)]
struct Partial {
    prefix: Vec<u8>,
    message: Option<(Zeroizing<Vec<u8>>, usize)>,
}

/// A byte that says whether the message is compressed, and its length.
const PREFIX: usize = 5;

impl Partial {
    fn take_from(&mut self, data: &mut Bytes) -> Result<Option<Zeroizing<Vec<u8>>>, CallError> {
        if self.message.is_none() {
            let missing = (PREFIX - self.prefix.len()).min(data.len());
            self.prefix.extend_from_slice(&data[..missing]);
            data.advance(missing);
            let [flag, length @ ..] = self.prefix.as_slice() else {
                return Ok(None);
            };
            let Ok(length) = <[u8; 4]>::try_from(length) else {
                return Ok(None);
            };
            let length = u32::from_be_bytes(length) as usize;
            // No compression was offered.
            if *flag != 0 || length > MAX_MESSAGE {
                return Err(CallError::Garbled);
            }
            self.prefix.clear();
            self.message = Some((Zeroizing::new(Vec::with_capacity(length)), length));
        }
        let Some((message, length)) = &mut self.message else {
            return Ok(None);
        };
        let missing = (*length - message.len()).min(data.len());
        message.extend_from_slice(&data[..missing]);
        data.advance(missing);
        if message.len() < *length {
            return Ok(None);
        }
        Ok(self.message.take().map(|(message, _)| message))
    }
}

/// All messages in what an agent has sent, which arrives in pieces of `cut`.
#[cfg(any(test, fuzzing))]
pub(super) fn messages(sent: &[u8], cut: usize) -> Result<Vec<Zeroizing<Vec<u8>>>, CallError> {
    let mut partial = Partial::default();
    let mut messages = Vec::new();
    for piece in sent.chunks(cut) {
        let mut data = Bytes::copy_from_slice(piece);
        while let Some(message) = partial.take_from(&mut data)? {
            messages.push(message);
        }
    }
    Ok(messages)
}

fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], message].concat().into()
}

const STATUS: &str = "grpc-status";
/// Shown to people: neither long nor with control characters.
const MAX_TEXT: usize = 300;

fn refusal(headers: &HeaderMap) -> CallError {
    let code = headers
        .get(STATUS)
        .and_then(|code| code.to_str().ok()?.parse().ok());
    match code {
        None => CallError::Garbled,
        Some(0) => CallError::Ended,
        Some(code) => {
            let message = headers.get("grpc-message");
            let message = message.map(|text| decoded(text.as_bytes()));
            CallError::Refused {
                code,
                message: message.unwrap_or_default(),
            }
        }
    }
}

/// Percent-encoded UTF-8.
fn decoded(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let encoded = match (first, after) {
            (b'%', [high, low, ..]) => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                digit(*high).zip(digit(*low))
            }
            _ => None,
        };
        match encoded {
            Some((high, low)) => {
                bytes.extend(u8::try_from(high << 4 | low));
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes)
        .chars()
        .take(MAX_TEXT)
        .flat_map(char::escape_debug)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_status_is_read_with_its_message() {
        let mut headers = HeaderMap::new();
        headers.insert(STATUS, "7".parse().unwrap());
        headers.insert("grpc-message", "no%20identity%0a%zz%".parse().unwrap());
        let CallError::Refused { code, message } = refusal(&headers) else {
            unreachable!("it was refused");
        };
        assert_eq!((code, message.as_str()), (7, "no identity\\n%zz%"));
        headers.insert(STATUS, "seven".parse().unwrap());
        assert!(matches!(refusal(&headers), CallError::Garbled));
    }

    #[test]
    fn what_is_compressed_or_too_long_is_refused() {
        for start in [[1, 0, 0, 0, 1], [0, 0xff, 0, 0, 0]] {
            let mut data = Bytes::copy_from_slice(&start);
            assert!(Partial::default().take_from(&mut data).is_err());
        }
    }

    proptest! {
        #[test]
        fn messages_come_whole_however_they_are_cut(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..5),
            cut in 1_usize..20,
        ) {
            let sent: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
            let received = super::messages(&sent, cut).unwrap();
            let received: Vec<Vec<u8>> = received.iter().map(|message| message.to_vec()).collect();
            prop_assert_eq!(received, messages);
        }
    }
}
