//! What requests and connections cost the data path, in counts that need no
//! timer: the system calls, allocations and instructions of both ends of a
//! tunnel together.
//! A change that raises one is seen here; lower the limit when one falls.
//!
//! As root, since the kernel counts system calls for nobody else.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a story that fails has to stop where it failed"
)]

mod counting;
mod stepping;
#[path = "../tunnel/support.rs"]
#[expect(dead_code, reason = "the tunnel's stories need more of it")]
mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use mtls_daemon::tunnel::Carry;

use counting::{Counts, Meter};
use support::{Pair, pair, request, story};

const MESSAGE: [u8; 64] = [7; 64];
/// With an allowance of a tenth.
const MOST_INSTRUCTIONS: u64 = 105_500;

/// An application at either end, and the flow between them.
struct Talk {
    client: TcpStream,
    server: TcpStream,
    near: Carry,
    far: Carry,
    /// Bytes that each has got.
    at_server: u64,
    at_client: u64,
}

#[test]
fn requests() {
    story(async {
        let mut pair = pair().await;
        let meter = Meter::new().unwrap();
        let mut talks = Vec::new();
        for _ in 0..64 {
            talks.push(Talk::between(&mut pair, [sockets(), sockets()]).await);
        }
        let mut cost = async |at_once: usize| {
            let (warm, rounds) = (10, 100);
            let mut before = meter.read().unwrap();
            for round in 0..warm + rounds {
                if round == warm {
                    // What grows only once has grown.
                    before = meter.read().unwrap();
                }
                let talks = &mut talks[..at_once];
                talks.iter_mut().for_each(Talk::ask);
                for talk in talks.iter_mut() {
                    talk.answer().await;
                }
                for talk in talks {
                    talk.hear().await;
                }
            }
            let mut cost = meter.read().unwrap() - before;
            let requests = rounds * at_once as u64;
            // The applications' own: a write and a read each.
            cost.system_calls -= 4 * requests;
            let each = |count: u64| count as f64 / requests as f64;
            (each(cost.system_calls), each(cost.allocations))
        };
        let (calls, allocations) = cost(1).await;
        println!("one at a time: {calls:.2} system calls, {allocations:.2} allocations");
        assert!(calls <= 19.0, "{calls} system calls a request");
        assert!(allocations <= 0.2, "{allocations} allocations a request");
        let (calls, allocations) = cost(64).await;
        println!("64 at once: {calls:.2} system calls, {allocations:.2} allocations");
        assert!(calls <= 4.5, "{calls} system calls a request");
        assert!(allocations <= 0.2, "{allocations} allocations a request");
    });
}

/// Of both ends and both applications, in the development profile: our own code
/// is not optimised in it.
#[test]
fn instructions() {
    const REQUESTS: u32 = 2;
    if !stepping::is_stepped() {
        let most = 10 * MOST_INSTRUCTIONS;
        let request = stepping::shortest_lap("instructions", REQUESTS, most);
        println!("one at a time: {request} instructions");
        assert!(request <= MOST_INSTRUCTIONS, "{request} instructions");
        return;
    }
    story(async {
        let mut pair = pair().await;
        let mut talk = Talk::between(&mut pair, [sockets(), sockets()]).await;
        for _ in 0..10 {
            talk.exchange().await;
        }
        // A lap takes many seconds, and what a timer does in them is no request's.
        tokio::time::pause();
        stepping::enter();
        for _ in 0..REQUESTS {
            talk.exchange().await;
            stepping::lap();
        }
    });
}

#[test]
fn connections() {
    story(async {
        let mut pair = pair().await;
        let meter = Meter::new().unwrap();
        let mut least = Counts {
            system_calls: u64::MAX,
            allocations: u64::MAX,
        };
        for _ in 0..20 {
            let apps = [sockets(), sockets()];
            let before = meter.read().unwrap();
            let mut talk = Talk::between(&mut pair, apps).await;
            talk.exchange().await;
            drop((talk.client, talk.server));
            tokio::join!(talk.near, talk.far);
            let mut cost = meter.read().unwrap() - before;
            // The applications' own: a write and a read each, and to close.
            cost.system_calls -= 6;
            least.system_calls = least.system_calls.min(cost.system_calls);
            least.allocations = least.allocations.min(cost.allocations);
        }
        println!("a connection with one request: {least:?}");
        assert!(least.system_calls <= 54, "{least:?}");
        assert!(least.allocations <= 40, "{least:?}");
    });
}

impl Talk {
    async fn between(pair: &mut Pair, apps: [(TcpStream, TcpStream); 2]) -> Self {
        let [(client, near_app), (server, far_app)] = apps;
        let opening = pair.near.open_for(&request(), &near_app).unwrap();
        let far = pair.incoming.next().await.unwrap().accept().carry(far_app);
        let near = opening.answer().await.unwrap().carry(near_app);
        Self {
            client,
            server,
            near,
            far,
            at_server: 0,
            at_client: 0,
        }
    }

    async fn exchange(&mut self) {
        self.ask();
        self.answer().await;
        self.hear().await;
    }

    fn ask(&mut self) {
        self.client.write_all(&MESSAGE).unwrap();
    }

    async fn answer(&mut self) {
        self.at_server += MESSAGE.len() as u64;
        arrived(&self.far, self.at_server).await;
        self.server.read_exact(&mut MESSAGE.clone()).unwrap();
        self.server.write_all(&MESSAGE).unwrap();
    }

    async fn hear(&mut self) {
        self.at_client += MESSAGE.len() as u64;
        arrived(&self.near, self.at_client).await;
        self.client.read_exact(&mut MESSAGE.clone()).unwrap();
    }
}

/// Waits, without a system call of its own, until the application has got
/// that much from its peer.
async fn arrived(flow: &Carry, bytes: u64) {
    let progress = flow.handle();
    while progress.bytes().unwrap().1 < bytes {
        tokio::task::yield_now().await;
    }
}

/// An application's end and the daemon's.
fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let outside = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let inside = listener.accept().unwrap().0;
    for socket in [&outside, &inside] {
        socket.set_nodelay(true).unwrap();
    }
    inside.set_nonblocking(true).unwrap();
    let reset = Some(Duration::ZERO);
    socket2::SockRef::from(&inside).set_linger(reset).unwrap();
    (outside, inside)
}
