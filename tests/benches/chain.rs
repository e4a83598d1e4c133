//! A node proxy without its purpose: takes connections, dials the other side,
//! copies, and neither intercepts nor encrypts. Two of them in a row are the
//! limit of a design with one process a node and a thread a core.

use std::net::SocketAddr;
use std::num::NonZero;

use mtls_tests::{Doing, Error, Result};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

const BUFFER: usize = 64 << 10;
const BACKLOG: i32 = 4096;

/// Takes connections at `listen` and passes them on to `to`, until it is killed.
pub(crate) fn run(listen: &str, to: &str) -> Result {
    let address = |word: &str| {
        word.parse::<SocketAddr>().map_err(|e| Error::Unreadable {
            what: format!("the argument {word:?}"),
            why: e.to_string(),
        })
    };
    let (listen, to) = (address(listen)?, address(to)?);
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut threads = Vec::new();
    for _ in 0..cores {
        // A listener a thread: the kernel spreads the connections.
        let listener = open(listen).doing(|| format!("listening on {listen}"))?;
        threads.push(std::thread::spawn(move || turn(listener, to)));
    }
    for thread in threads {
        let ended = thread
            .join()
            .map_err(|_panic| Error::Unexpected("a thread of the chain panicked".into()))?;
        ended.doing(|| "passing connections on")?;
    }
    Ok(())
}

fn open(listen: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&listen.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn turn(listener: std::net::TcpListener, to: SocketAddr) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    LocalSet::new().block_on(&runtime, async move {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (client, _) = listener.accept().await?;
            // A connection that fails is seen at its client.
            tokio::task::spawn_local(async move { pass_on(client, to).await });
        }
    })
}

async fn pass_on(mut client: TcpStream, to: SocketAddr) -> std::io::Result<()> {
    let mut server = TcpStream::connect(to).await?;
    server.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER)
        .await
        .map(drop)
}
