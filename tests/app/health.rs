//! The health service of gRPC, as kubelets ask it: `grpc.health.v1.Health`, of
//! which it has `Check` for the whole server. A message is a byte that says it
//! is not compressed, its length in four, and protobuf.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use mtls_tests::script::Event;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::report;

const METHOD: &str = "/grpc.health.v1.Health/Check";
/// No service named: the server as a whole.
const QUESTION: &[u8] = &[0, 0, 0, 0, 0];
/// Field 1, the status: 1, SERVING.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 0x01];
/// Status codes of gRPC.
const OK: &str = "0";
const NOT_FOUND: &str = "5";
const UNIMPLEMENTED: &str = "12";
/// Long enough for a busy machine, short enough for a story of refusals.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

pub(crate) async fn serve(listen: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let listening = vec![listener.local_addr()?];
    report::say(&Event::Ready { listening });
    loop {
        let (stream, _) = listener.accept().await?;
        spawn_local(async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else {
                return;
            };
            while let Some(Ok((request, respond))) = connection.accept().await {
                spawn_local(answer(request, respond));
            }
        });
    }
}

/// A client that has gone takes no answer.
async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Option<()> {
    let is_known = request.uri().path() == METHOD;
    let (question, _) = read(request.into_body()).await.ok()?;
    let status = match question.as_slice() {
        _ if !is_known => UNIMPLEMENTED,
        QUESTION => OK,
        _ => NOT_FOUND,
    };
    let head = Response::builder().header("content-type", "application/grpc");
    let mut body = respond.send_response(head.body(()).ok()?, false).ok()?;
    if status == OK {
        body.send_data(Bytes::from_static(SERVING), false).ok()?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().ok()?);
    body.send_trailers(trailers).ok()
}

pub(crate) async fn ask(to: SocketAddr) -> io::Result<()> {
    let late = |_| io::Error::from_raw_os_error(libc::ETIMEDOUT);
    let (answer, trailers) = timeout(ANSWER_WITHIN, call(to)).await.map_err(late)??;
    let status = trailers.get("grpc-status").map(|status| status.as_bytes());
    if status == Some(OK.as_bytes()) && answer == SERVING {
        report::say(&Event::Healthy);
        return Ok(());
    }
    Err(io::Error::other(format!("{status:?} {answer:?}")))
}

async fn call(to: SocketAddr) -> io::Result<(Vec<u8>, HeaderMap)> {
    let stream = TcpStream::connect(to).await?;
    let (client, connection) = h2::client::handshake(stream).await.map_err(of_h2)?;
    spawn_local(connection);
    let request = Request::post(format!("http://{to}{METHOD}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(io::Error::other)?;
    let mut client = client.ready().await.map_err(of_h2)?;
    let (response, mut body) = client.send_request(request, false).map_err(of_h2)?;
    let question = Bytes::from_static(QUESTION);
    body.send_data(question, true).map_err(of_h2)?;
    let response = response.await.map_err(of_h2)?;
    read(response.into_body()).await
}

/// All of a short body, and its trailers.
async fn read(mut body: RecvStream) -> io::Result<(Vec<u8>, HeaderMap)> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        bytes.extend_from_slice(&chunk.map_err(of_h2)?);
    }
    let trailers = body.trailers().await.map_err(of_h2)?;
    Ok((bytes, trailers.unwrap_or_default()))
}

/// The system's word for it, where there is one.
fn of_h2(error: h2::Error) -> io::Error {
    match error.get_io().and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error),
    }
}
