//! The server, for all kinds of load, until it is killed.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use mtls_tests::deadline::Deadline;
use mtls_tests::{Doing, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{BULK_BUFFER, Kind, LAST, MESSAGE, number, on_one_thread};

/// Enough for every client to connect at the same moment.
const BACKLOG: i32 = 4096;

pub(crate) fn serve(port: &str) -> Result {
    let listener = listen(number(port)?).doing(|| format!("listening on port {port}"))?;
    on_one_thread(async move {
        let listener =
            tokio::net::TcpListener::from_std(listener).doing(|| "polling the listener")?;
        loop {
            let (socket, _) = listener.accept().await.doing(|| "accepting")?;
            // A connection that fails is seen at its client.
            tokio::task::spawn_local(async move { answer(socket).await });
        }
    })
}

/// Both families on one socket.
fn listen(port: u16) -> std::io::Result<TcpListener> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&std::net::SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

async fn answer(mut socket: tokio::net::TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut message = [0; MESSAGE];
    socket.read_exact(&mut message).await?;
    let bulk: Option<fn(TcpStream, [u8; MESSAGE]) -> _> = match message[0] {
        byte if byte == Kind::Bulk.byte() => Some(swallow),
        byte if byte == Kind::BulkBack.byte() => Some(pour),
        _ => None,
    };
    if let Some(work) = bulk {
        // A thread of its own, as a server that only moves bytes would have.
        let socket = socket.into_std()?;
        socket.set_nonblocking(false)?;
        std::thread::spawn(move || work(socket, message));
        return Ok(());
    }
    loop {
        socket.write_all(&message).await?;
        match socket.read_exact(&mut message).await {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Reads to the last byte and tells how much it was.
fn swallow(mut socket: TcpStream, _: [u8; MESSAGE]) -> std::io::Result<()> {
    let mut buffer = vec![0; BULK_BUFFER];
    let mut count = 0_u64;
    loop {
        let n = socket.read(&mut buffer)?;
        let Some(last) = buffer[..n].last() else {
            // The client failed, and says so itself.
            return Ok(());
        };
        count += n as u64;
        if *last == LAST {
            return socket.write_all(&count.to_be_bytes());
        }
    }
}

/// Writes for as long as the message says.
fn pour(mut socket: TcpStream, message: [u8; MESSAGE]) -> std::io::Result<()> {
    let mut millis = [0; 8];
    millis.copy_from_slice(&message[8..16]);
    let end = Deadline::after(Duration::from_millis(u64::from_be_bytes(millis)));
    let mut buffer = vec![message[0]; BULK_BUFFER];
    while !end.passed() {
        socket.write_all(&buffer)?;
    }
    buffer[BULK_BUFFER - 1] = LAST;
    socket.write_all(&buffer)?;
    // The client closes first, when it has everything.
    socket.read(&mut buffer).map(drop)
}
