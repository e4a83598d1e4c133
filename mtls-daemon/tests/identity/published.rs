//! Revocation lists that are fetched from where their issuer publishes them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mtls_daemon::config::{self, Crl, CrlDepth, CrlPolicy};
use mtls_daemon::identity::{NewestRevocations, Revocation, Revocations};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::folder::Folder;
use crate::node::{Node, disk_ca_in, write_ca};
use crate::pki::{Ca, HOUR, trust_domain};

/// A web server of one file.
struct Publisher {
    answer: Arc<Mutex<(u16, Vec<u8>)>>,
    asked: watch::Receiver<usize>,
    port: u16,
}

impl Publisher {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = Arc::new(Mutex::new((404, Vec::new())));
        let (count, asked) = watch::channel(0);
        let shared = Arc::clone(&answer);
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(socket.read_u8().await.unwrap());
                }
                assert!(request.starts_with(b"GET /ca/list?of=root HTTP/1.1\r\n"));
                let (status, body) = shared.lock().unwrap().clone();
                let head = format!(
                    "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = socket.write_all(head.as_bytes()).await;
                let _ = socket.write_all(&body).await;
                count.send_modify(|count| *count += 1);
            }
        });
        Self {
            answer,
            asked,
            port,
        }
    }

    fn publish(&self, status: u16, body: &[u8]) {
        *self.answer.lock().unwrap() = (status, body.to_vec());
    }

    /// So many more requests are answered.
    async fn answers(&mut self, count: usize) {
        let goal = *self.asked.borrow_and_update() + count;
        self.asked.wait_for(|asked| *asked >= goal).await.unwrap();
    }

    fn url(&self) -> config::FileUrl {
        config::FileUrl {
            server: config::ServerUrl {
                tls: false,
                host: "127.0.0.1".to_owned(),
                port: self.port,
            },
            path: "/ca/list?of=root".to_owned(),
        }
    }
}

struct Lists(NewestRevocations);

impl Lists {
    async fn next(&mut self) -> Arc<Revocation> {
        self.0.changed().await;
        self.now()
    }

    fn now(&self) -> Arc<Revocation> {
        let all = self.0.get();
        Arc::clone(all.get(&trust_domain("example.org")).unwrap())
    }

    fn all(&self) -> Arc<Revocations> {
        self.0.get()
    }
}

fn node(ca: &Ca, files: Vec<std::path::PathBuf>, publisher: &Publisher) -> Node {
    let folder = Folder::new();
    write_ca(&folder, ca, &[ca]);
    let source = disk_ca_in(&folder, HOUR);
    let crl = Crl {
        trust_domain: trust_domain("example.org"),
        files,
        urls: vec![publisher.url()],
        server_ca: None,
        poll: Duration::from_millis(20),
        policy: CrlPolicy::Hard,
        depth: CrlDepth::Chain,
    };
    Node::with_crls(folder, source, vec![crl])
}

#[tokio::test]
async fn what_was_fetched_counts_until_something_newer_is() {
    let ca = Ca::root("root");
    let mut publisher = Publisher::start().await;
    let node = node(&ca, Vec::new(), &publisher);
    let mut lists = Lists(node.store.revocations());
    assert!(lists.now().fault().unwrap().contains("first time"));
    // Never there: nobody can be asked.
    let at_fault = lists.next().await;
    let fault = at_fault.fault().unwrap();
    assert!(fault.contains("/ca/list?of=root: 404"), "{fault}");

    publisher.publish(200, ca.crl(&["01"]).der());
    let fetched = lists.next().await;
    assert_eq!((fetched.fault(), fetched.complaint()), (None, None));
    assert_eq!(fetched.lists()[0].entries, 1);
    // The same again is no news: tickets of sessions live on.
    let before = lists.all();
    publisher.answers(5).await;
    assert!(Arc::ptr_eq(&before, &lists.all()));

    for (status, body, why) in [
        (503, &b"sealed"[..], "503"),
        (200, b"<html>", "holds no revocation list"),
        (307, b"", "sends elsewhere"),
    ] {
        publisher.publish(status, body);
        let kept = lists.next().await;
        assert_eq!(kept.fault(), None);
        assert!(kept.complaint().unwrap().contains(why), "{kept:?}");
        assert_eq!(kept.lists()[0].entries, 1);
    }
    publisher.publish(200, ca.crl(&["01", "02"]).pem().unwrap().as_bytes());
    let newer = lists.next().await;
    assert_eq!((newer.fault(), newer.complaint()), (None, None));
    assert_eq!(newer.lists()[0].entries, 2);
}

#[tokio::test]
async fn lists_in_files_and_fetched_ones_count_together() {
    let (ca, other) = (Ca::root("root"), Ca::root("other"));
    let publisher = Publisher::start().await;
    publisher.publish(200, ca.crl(&["01"]).der());
    let folder = Folder::new();
    let file = folder.file("crl.pem");
    let node = node(&ca, vec![file], &publisher);
    let mut lists = Lists(node.store.revocations());
    // The one without the other is not enough.
    let at_fault = lists.next().await;
    assert!(at_fault.fault().unwrap().contains("crl.pem"));
    folder.write("crl.pem", other.crl(&["02", "03"]).pem().unwrap());
    let both = lists.next().await;
    assert_eq!(both.fault(), None);
    let entries: Vec<usize> = both.lists().iter().map(|list| list.entries).collect();
    assert_eq!(entries, [2, 1]);
}
