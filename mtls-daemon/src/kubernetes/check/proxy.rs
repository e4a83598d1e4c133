//! What this node's kube-proxy says of itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Where it tells, unless its metricsBindAddress says otherwise.
const AT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
const WITHIN: Duration = Duration::from_secs(2);
/// The name of a mode.
const LONGEST: usize = 64;

/// For the operator to know: neither is wrong.
pub(super) async fn note() -> String {
    match timeout(WITHIN, mode(AT)).await {
        Ok(Some(mode)) => format!(
            "kube-proxy of this node runs in mode {mode}: it serves what is not enrolled; connections of enrolled workloads to Services do not get to it"
        ),
        _ => format!(
            "no kube-proxy answers at {AT}: enrolled workloads do without, but others, and the daemon itself, reach a Service's address only if something else stands in for it (for the API server, see `apiServer` of the chart)"
        ),
    }
}

async fn mode(at: SocketAddr) -> Option<String> {
    let stream = TcpStream::connect(at).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request = Request::get("/proxyMode").header("host", at.to_string());
    let request = request.body(Empty::<Bytes>::new()).ok()?;
    let asked = async move {
        let answer = sender.send_request(request).await.ok()?;
        let answer = answer.status().is_success().then_some(answer)?;
        let body = Limited::new(answer.into_body(), LONGEST).collect().await;
        String::from_utf8(body.ok()?.to_bytes().to_vec()).ok()
    };
    // It ends with the question.
    let (mode, _) = tokio::join!(asked, connection);
    mode.filter(|mode| is_word(mode))
}

/// Whoever has that port may say anything.
fn is_word(mode: &str) -> bool {
    !mode.is_empty() && mode.chars().all(|c| c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// What is made of an answer.
    async fn said(answer: &'static str) -> Option<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let n = stream.read(&mut request).await.unwrap();
            let asked = String::from_utf8_lossy(&request[..n]).into_owned();
            // It may have heard enough.
            let _ = stream.write_all(answer.as_bytes()).await;
            asked
        };
        let (mode, asked) = tokio::join!(mode(at), serving);
        assert!(asked.starts_with("GET /proxyMode HTTP/1.1"), "{asked}");
        mode
    }

    #[tokio::test]
    async fn a_mode_is_one_word() {
        let ipvs = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nipvs";
        assert_eq!(said(ipvs).await.as_deref(), Some("ipvs"));
        for other in [
            "HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nipvs",
            "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "SSH-2.0-OpenSSH_9.2\r\n",
            "",
        ] {
            assert_eq!(said(other).await, None, "{other}");
        }
    }

    #[tokio::test]
    async fn a_long_answer_is_not_read_to_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = "HTTP/1.1 200 OK\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            while stream.write_all(&[b'a'; 1024]).await.is_ok() {}
        };
        let (mode, ()) = tokio::join!(mode(at), serving);
        assert_eq!(mode, None);
    }
}
