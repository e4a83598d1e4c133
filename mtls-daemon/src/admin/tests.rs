use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::LocalSet;

use mtls_common::counters::Hook;

use super::*;
use crate::config::Place;
use crate::metrics::{HookState, KernelFigures};
use crate::policy::{Explanation, NoAnswer, Question};
use crate::reason::Reason;
use client::ClientError;
use reply::EnrolQuestion;
use view::{
    Certificates, Connection, EnrolRefusal, EnrolRequest, LocalFuture, NodeStatus, WorkloadState,
};

/// A node whose state the test sets.
struct Fake {
    status: RefCell<NodeStatus>,
    changes: watch::Sender<()>,
}

impl NodeView for Fake {
    fn certificates(&self) -> Certificates {
        samples::certificates()
    }

    fn status(&self) -> NodeStatus {
        self.status.borrow().clone()
    }

    fn hooks(&self) -> Vec<HookState> {
        vec![HookState {
            hook: Hook::Connect4,
            attached: true,
        }]
    }

    fn kernel(&self) -> KernelFigures {
        KernelFigures {
            hooks: self.hooks(),
            ..KernelFigures::default()
        }
    }

    fn connections(&self) -> LocalFuture<'_, Vec<Connection>> {
        Box::pin(async { vec![samples::connection()] })
    }

    fn strict_readiness(&self) -> Vec<strict::StrictReadiness> {
        Vec::new()
    }

    fn policy_test(&self, question: &Question) -> Result<Explanation, NoAnswer> {
        Err(NoAnswer::NobodyIsCalled(question.workload.clone()))
    }

    fn enrol(&self, request: EnrolRequest) -> LocalFuture<'_, Result<String, EnrolRefusal>> {
        Box::pin(async move {
            match request.name.as_deref() {
                Some("web") => {
                    self.set(WorkloadState::Waiting {
                        detail: "certificate".to_owned(),
                    });
                    Ok("web".to_owned())
                }
                _ => Err(EnrolRefusal {
                    reason: Reason::NotConfigured,
                    detail: "nobody is here".to_owned(),
                }),
            }
        })
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

impl Fake {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            status: RefCell::new(samples::status()),
            changes: watch::Sender::new(()),
        })
    }

    fn set(&self, state: WorkloadState) {
        self.status.borrow_mut().workloads[0].state = state;
        self.changes.send_replace(());
    }
}

/// A folder of its own, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mtls-admin-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("admin.sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn on_a_node<F: Future<Output = ()>>(
    test: impl FnOnce(Rc<Fake>, PathBuf, SocketAddr) -> F,
    folder: &Folder,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = LocalSet::new();
    let fake = Fake::new();
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = free.local_addr().unwrap();
    drop(free);
    local.block_on(&runtime, async {
        let metrics = Metrics::new(std::time::SystemTime::now());
        let heartbeats = Heartbeats::new();
        spawn_local(heartbeats.expect("control").run());
        serve(
            Rc::clone(&fake),
            metrics,
            heartbeats,
            (folder.socket(), listen),
        )
        .await
        .unwrap();
        test(fake, folder.socket(), listen).await;
    });
}

fn question(name: Option<&str>, wait: Duration) -> EnrolQuestion {
    EnrolQuestion {
        request: EnrolRequest {
            place: Place::Netns("/run/netns/web".into()),
            name: name.map(str::to_owned),
            spiffe_id: None,
            addresses: Vec::new(),
        },
        wait,
    }
}

async fn get(at: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[test]
fn the_socket_is_for_root_alone_and_goes_with_the_daemon() {
    let folder = Folder::new("mode");
    on_a_node(
        |_, socket, _| async move {
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&socket), 0o600);
            assert_eq!(mode(socket.parent().unwrap()), 0o700);
        },
        &folder,
    );
    assert!(!folder.socket().exists());
}

#[test]
fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
    let folder = Folder::new("stale");
    fs::create_dir_all(&folder.0).unwrap();
    drop(std::os::unix::net::UnixListener::bind(folder.socket()).unwrap());
    on_a_node(
        |_, socket, _| async move {
            let second = socket::bind(&socket).err().unwrap();
            assert!(matches!(second, AdminError::Taken(_)), "{second}");
        },
        &folder,
    );
    fs::write(folder.socket(), "a file").unwrap();
    let error = socket::bind(&folder.socket()).err().unwrap();
    assert!(matches!(error, AdminError::NoSocket(_)), "{error}");
}

#[test]
fn status_and_connections_arrive_as_they_were_sent() {
    let folder = Folder::new("status");
    on_a_node(
        |_, socket, _| async move {
            let answer = client::status(&socket).await.unwrap();
            assert_eq!(answer.reply.schema, reply::SCHEMA);
            assert_eq!(answer.reply.status, samples::status());
            assert!(answer.reply.ready.good() && answer.reply.healthy.good());
            let json: serde_json::Value = serde_json::from_slice(&answer.json).unwrap();
            assert_eq!(json["status"]["phase"], "serving");
            let web = &json["status"]["workloads"][0];
            assert_eq!(web["state"], "ready");
            assert_eq!(web["place"]["netns"], "/run/netns/web");
            assert_eq!(web["svid"]["not_after"], "2027-01-15T09:00:00Z");
            let connections = client::connections(&socket).await.unwrap();
            assert_eq!(connections.reply.connections, [samples::connection()]);
            let certificates = client::certificates(&socket).await.unwrap();
            assert_eq!(certificates.reply.all, samples::certificates());
        },
        &folder,
    );
}

#[test]
fn enrol_waits_until_the_workload_is_ready() {
    let folder = Folder::new("enrol");
    on_a_node(
        |fake, socket, _| async move {
            let question = question(Some("web"), Duration::from_secs(20));
            let (answer, ()) = tokio::join!(client::enrol(&socket, &question), async {
                while matches!(fake.status().workloads[0].state, WorkloadState::Ready) {
                    tokio::task::yield_now().await;
                }
                fake.changes.send_replace(());
                tokio::task::yield_now().await;
                fake.set(WorkloadState::Ready);
            });
            let reply = answer.unwrap().reply;
            assert_eq!(reply.workload, "web");
            assert_eq!(reply.state, WorkloadState::Ready);
        },
        &folder,
    );
}

#[test]
fn enrol_tells_why_it_did_not_work() {
    let folder = Folder::new("refused");
    on_a_node(
        |_, socket, _| async move {
            let refused = client::enrol(&socket, &question(None, Duration::ZERO)).await;
            let error = refused.err().unwrap();
            assert_eq!(error.to_string(), "not_configured: nobody is here");
            let slow = question(Some("web"), Duration::from_millis(20));
            let reply = client::enrol(&socket, &slow).await.unwrap().reply;
            assert!(
                matches!(reply.state, WorkloadState::Waiting { .. }),
                "{reply:?}"
            );
        },
        &folder,
    );
}

#[test]
fn another_user_is_refused_even_with_access_to_the_file() {
    let folder = Folder::new("user");
    on_a_node(
        |_, socket, _| async move {
            for path in [socket.parent().unwrap(), &socket] {
                fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
            }
            let (say, said) = tokio::sync::oneshot::channel();
            let at = socket.clone();
            std::thread::spawn(move || {
                become_nobody();
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                let _ = say.send(runtime.block_on(client::status(&at)).err());
            });
            let error = said.await.unwrap().unwrap();
            assert!(matches!(error, ClientError::NotRoot(_)), "{error}");
        },
        &folder,
    );
}

/// For this thread only: the system call, without the C library's news to the others.
fn become_nobody() {
    const NOBODY: libc::c_long = 65534;
    #[expect(unsafe_code, reason = "setresuid of one thread has no safe wrapper")]
    // SAFETY: the call takes numbers and changes the credentials of this thread.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, -1_i64, NOBODY, -1_i64) };
    assert_eq!(result, 0, "this test runs as root");
}

#[test]
fn metrics_and_health_are_told_to_anybody() {
    let folder = Folder::new("observe");
    on_a_node(
        |fake, _, at| async move {
            let metrics = get(at, "/metrics").await;
            assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
            assert!(metrics.contains("text/plain; version=0.0.4"));
            assert!(metrics.contains("\nmtls_workloads{state=\"ready\"} 1\n"));
            assert!(get(at, "/healthz").await.ends_with("\r\n\r\nhealthy\n"));
            assert!(get(at, "/readyz").await.ends_with("\r\n\r\nready\n"));
            fake.set(WorkloadState::Waiting {
                detail: "certificate".to_owned(),
            });
            let answer = get(at, "/readyz").await;
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            assert!(answer.ends_with(
                "not ready\nworkload web (spiffe://example.org/web) is waiting: certificate\n"
            ));
            assert!(get(at, "/v1/status").await.starts_with("HTTP/1.1 404"));
        },
        &folder,
    );
}
