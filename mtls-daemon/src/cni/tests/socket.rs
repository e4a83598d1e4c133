//! Both ends of the socket.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::super::door::{Progress, Sandboxes, answer};
use super::super::plugin::{self, Patience};
use super::super::spec::{self, Call, Failure};
use super::super::wire::{self, Arrival, Question};
use super::super::{Pod, Sandbox};
use crate::netns::Netns;

/// A node that has a pod enrolled once it was asked so many times.
struct Node {
    closed: RefCell<Option<String>>,
    asked: Cell<u32>,
    done_at: u32,
    held: RefCell<Vec<String>>,
    changes: watch::Sender<()>,
}

impl Node {
    fn done_at(asked: u32) -> Self {
        Self {
            closed: RefCell::default(),
            asked: Cell::new(0),
            done_at: asked,
            held: RefCell::default(),
            changes: watch::Sender::new(()),
        }
    }
}

impl Sandboxes for Node {
    fn closed(&self) -> Option<String> {
        self.closed.borrow().clone()
    }

    fn take(&self, _: &Pod, sandbox: &Sandbox) -> Progress {
        let mut held = self.held.borrow_mut();
        if !held.contains(&sandbox.container) {
            held.push(sandbox.container.clone());
        }
        self.asked.set(self.asked.get() + 1);
        match self.asked.get() >= self.done_at {
            true => Progress::Done,
            false => {
                self.changes.send_replace(());
                Progress::Waits("for its first certificate".to_owned())
            }
        }
    }

    fn progress(&self, _: &Pod) -> Progress {
        match self.held.borrow().is_empty() {
            true => Progress::Waits("nobody knows it".to_owned()),
            false => Progress::Done,
        }
    }

    fn forget(&self, gone: &dyn Fn(&str) -> bool) {
        self.held.borrow_mut().retain(|container| !gone(container));
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

fn arrival() -> Arrival {
    Arrival {
        container: "c1".to_owned(),
        pod: Pod {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: "u1".to_owned(),
        },
        addresses: Vec::new(),
    }
}

fn own_netns() -> OwnedFd {
    File::open("/proc/self/ns/net").unwrap().into()
}

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(start_paused = true)]
async fn an_answer_comes_when_the_pod_is_ready() {
    let node = Node::done_at(3);
    let told = answer(&node, Question::Add(arrival()), Some(own_netns()), PATIENCE).await;
    assert_eq!(told, Ok(()));
    assert_eq!(node.asked.get(), 3);
    let check = || answer(&node, Question::Check(arrival()), None, PATIENCE);
    assert_eq!(check().await, Ok(()));
    let gone = Question::Gc {
        valid: vec!["c2".to_owned()],
    };
    assert_eq!(answer(&node, gone, None, PATIENCE).await, Ok(()));
    assert_eq!(check().await.unwrap_err().code, Failure::TRY_AGAIN);
}

#[tokio::test(start_paused = true)]
async fn who_is_not_ready_in_time_is_refused_and_forgotten() {
    let node = Node::done_at(u32::MAX);
    *node.closed.borrow_mut() = Some("is starting".to_owned());
    let status = answer(&node, Question::Status, None, PATIENCE).await;
    assert_eq!(status.unwrap_err().code, Failure::UNAVAILABLE);
    let told = answer(&node, Question::Add(arrival()), Some(own_netns()), PATIENCE).await;
    let failure = told.unwrap_err();
    assert_eq!(failure.code, Failure::TRY_AGAIN);
    assert!(failure.msg.contains("shop/web"), "{failure:?}");
    assert!(failure.details.contains("is starting"), "{failure:?}");
    assert!(node.held.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_no_network_namespace_is_refused() {
    let node = Node::done_at(1);
    for fd in [None, Some(File::open("/dev/null").unwrap().into())] {
        let told = answer(&node, Question::Add(arrival()), fd, PATIENCE).await;
        assert_eq!(told.unwrap_err().code, Failure::NOT_ENROLLED);
    }
    assert_eq!(node.asked.get(), 0);
}

#[tokio::test]
async fn the_descriptor_arrives_as_the_namespace_it_was() {
    let (plugin, daemon) = UnixStream::pair().unwrap();
    let asking = thread::spawn(move || {
        let netns = own_netns();
        wire::ask(&plugin, &Question::Add(arrival()), Some(netns.as_fd())).unwrap()
    });
    daemon.set_nonblocking(true).unwrap();
    let mut daemon = tokio::net::UnixStream::from_std(daemon).unwrap();
    let (question, netns) = wire::hear(&daemon).await.unwrap();
    assert_eq!(question, Question::Add(arrival()));
    let netns = Netns::of(netns.unwrap()).unwrap();
    assert_eq!(netns.cookie(), Netns::host().unwrap().cookie());
    let refusal: wire::Answer = Err(Failure::new(11, "not yet", "for its first certificate"));
    let text = serde_json::to_vec(&refusal).unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut daemon, &text)
        .await
        .unwrap();
    drop(daemon);
    assert_eq!(asking.join().unwrap(), refusal);
}

/// A call of the plug-in on a node without a daemon.
fn called(command: &str, namespace: &str) -> Result<Option<Value>, Failure> {
    let network = json!({
        "cniVersion": "1.1.0", "name": "net", "type": "mtls-daemon",
        "socket": "/nonexistent/cni.sock", "exclude": ["kube-system"],
        "prevResult": {"cniVersion": "1.1.0", "ips": []},
    });
    let args = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=a;K8S_POD_UID=u");
    let env = |name: &str| {
        let value = match name {
            "CNI_COMMAND" => command,
            "CNI_CONTAINERID" => "c1",
            "CNI_NETNS" => "/proc/self/ns/net",
            "CNI_ARGS" => &args,
            _ => return None,
        };
        Some(value.to_owned())
    };
    let call: Call = spec::read(env, &network.to_string()).unwrap();
    let patience = Patience {
        reach: Duration::from_millis(300),
        answer: Duration::from_secs(1),
    };
    plugin::answer(&call, patience)
}

#[test]
fn without_a_daemon_pods_wait_but_for_the_excluded_ones() {
    let failure = called("ADD", "shop").unwrap_err();
    assert_eq!(failure.code, Failure::TRY_AGAIN);
    assert!(failure.msg.contains("does not answer"), "{failure:?}");
    let result = json!({"cniVersion": "1.1.0", "ips": []});
    assert_eq!(called("ADD", "kube-system"), Ok(Some(result)));
    assert_eq!(
        called("CHECK", "shop").unwrap_err().code,
        Failure::TRY_AGAIN
    );
    assert_eq!(
        called("STATUS", "shop").unwrap_err().code,
        Failure::UNAVAILABLE
    );
    // What has ended never fails.
    assert_eq!(called("DEL", "shop"), Ok(None));
    assert_eq!(called("GC", "shop"), Ok(None));
    let versions = called("VERSION", "shop").unwrap().unwrap();
    let known = versions["supportedVersions"].as_array().unwrap();
    assert!(known.contains(&json!("1.1.0")) && known.contains(&json!("0.4.0")));
}
