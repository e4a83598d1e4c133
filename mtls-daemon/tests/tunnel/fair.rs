//! Flows of one tunnel whose applications always have something to say, and
//! always take what they are told, get the same.

use mtls_daemon::tunnel::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local, yield_now};

use crate::support::*;

const FLOWS: usize = 8;
/// Bytes of all together before anybody is asked what it got.
const ENOUGH: u64 = 192 << 20;

#[test]
fn busy_flows_get_the_same() {
    story(async {
        let shares = shares(Settings::default(), true).await;
        assert_alike(&shares);
    });
}

#[test]
fn busy_flows_get_the_same_from_the_server() {
    story(async {
        let shares = shares(Settings::default(), false).await;
        assert_alike(&shares);
    });
}

#[test]
fn busy_flows_get_the_same_where_not_all_windows_can_grow() {
    story(async {
        // Room for three of them.
        let settings = Settings {
            tunnel_growth: 12 << 20,
            ..Settings::default()
        };
        let shares = shares(settings, true).await;
        assert_alike(&shares);
    });
}

fn assert_alike(shares: &[u64]) {
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(least * 10 >= most * 8, "{shares:?}");
}

/// What each flow has moved.
async fn shares(settings: Settings, from_client: bool) -> Vec<u64> {
    let mut pair = pair_with(settings.clone(), settings).await;
    let mut flows = vec![];
    for _ in 0..FLOWS {
        let (near, far) = pair.stream().await;
        let ((client, near_app), (server, far_app)) = (roomy_app().await, roomy_app().await);
        let carried = (near.carry(near_app), far.carry(far_app));
        flows.push((client, server, carried));
    }
    // Nobody has a start.
    let (mut carried, mut busy) = (vec![], vec![]);
    for (client, server, (near, far)) in flows {
        let (from, to) = match from_client {
            true => (client, server),
            false => (server, client),
        };
        busy.extend([talk(from), listen(to)]);
        carried.push((near, far));
    }
    let now = || -> Vec<u64> {
        let moved = |nth: usize| {
            let (there, back) = carried[nth].0.handle().bytes().unwrap();
            there + back
        };
        (0..FLOWS).map(moved).collect()
    };
    while now().iter().sum::<u64>() < ENOUGH {
        yield_now().await;
    }
    let shares = now();
    busy.iter().for_each(JoinHandle::abort);
    shares
}

/// An application whose kernel holds more than a turn moves, so that it is
/// never its own task that keeps the tunnel waiting.
async fn roomy_app() -> (TcpStream, std::net::TcpStream) {
    const ROOM: usize = 4 << 20;
    let (outside, inside) = app().await;
    for socket in [
        socket2::SockRef::from(&outside),
        socket2::SockRef::from(&inside),
    ] {
        socket.set_send_buffer_size(ROOM).unwrap();
        socket.set_recv_buffer_size(ROOM).unwrap();
    }
    (outside, inside)
}

fn talk(mut app: TcpStream) -> JoinHandle<()> {
    spawn_local(async move {
        let words = vec![7; 256 << 10];
        while app.write_all(&words).await.is_ok() {}
    })
}

fn listen(mut app: TcpStream) -> JoinHandle<()> {
    spawn_local(async move {
        let mut heard = vec![0; 256 << 10];
        while app.read(&mut heard).await.is_ok_and(|n| n > 0) {}
    })
}
