//! The load: a server and a client that do next to nothing with the bytes, so
//! that what is measured is the way between them.

use std::fmt::Display;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use mtls_tests::deadline::{Deadline, Stopwatch};
use mtls_tests::{Doing, Error, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;

/// A request and its answer, each.
const MESSAGE: usize = 64;
const BULK_BUFFER: usize = 256 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One way, as fast as it goes.
    Bulk,
    /// One message each way, over and over on the same connection.
    RequestResponse,
    /// One message each way on a new connection every time.
    ConnectRequestClose,
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::RequestResponse => "rr",
            Self::ConnectRequestClose => "crr",
        }
    }

    /// The first byte on a connection tells the server.
    fn byte(self) -> u8 {
        match self {
            Self::Bulk => b'b',
            Self::RequestResponse | Self::ConnectRequestClose => b'r',
        }
    }
}

/// What a client saw.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Measured {
    /// Bytes, or round trips.
    pub(crate) units: u64,
    pub(crate) seconds: f64,
    /// Microseconds of a round trip; 0 in bulk.
    pub(crate) p50: u64,
    pub(crate) p99: u64,
}

impl Measured {
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let measured = Self {
            units: words.next()?.parse().ok()?,
            seconds: words.next()?.parse().ok()?,
            p50: words.next()?.parse().ok()?,
            p99: words.next()?.parse().ok()?,
        };
        (words.next().is_none() && measured.units > 0 && measured.seconds > 0.0).then_some(measured)
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate, for people")]
    pub(crate) fn rate(&self) -> f64 {
        self.units as f64 / self.seconds
    }
}

/// The server, for all kinds, until it is killed.
pub(crate) fn serve(port: &str) -> Result {
    let port: u16 = number(port)?;
    // Both families on one socket.
    let listener = TcpListener::bind(("::", port)).doing(|| format!("listening on port {port}"))?;
    listener
        .set_nonblocking(true)
        .doing(|| "making the listener non-blocking")?;
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

async fn answer(mut socket: tokio::net::TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut message = [0; MESSAGE];
    socket.read_exact(&mut message).await?;
    if message[0] == Kind::Bulk.byte() {
        // A thread of its own, as a server that only moves bytes would have.
        let socket = socket.into_std()?;
        std::thread::spawn(move || swallow(socket));
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

/// Reads to the end and tells how much it was.
fn swallow(mut socket: TcpStream) -> std::io::Result<()> {
    socket.set_nonblocking(false)?;
    let mut buffer = vec![0; BULK_BUFFER];
    let mut count = 0_u64;
    loop {
        match socket.read(&mut buffer)? {
            0 => return socket.write_all(&count.to_be_bytes()),
            n => count += n as u64,
        }
    }
}

/// The client; prints what it measured.
pub(crate) fn run(kind: &str, to: &str, connections: &str, seconds: &str) -> Result {
    let (to, span) = (
        number::<SocketAddr>(to)?,
        Duration::from_secs(number(seconds)?),
    );
    let connections: usize = number(connections)?;
    let kinds = [Kind::Bulk, Kind::RequestResponse, Kind::ConnectRequestClose];
    let kind = kinds
        .into_iter()
        .find(|known| known.word() == kind)
        .ok_or_else(|| Error::Unexpected(format!("no kind {kind:?}")))?;
    let measured = match kind {
        Kind::Bulk => bulk(to, span).doing(|| "sending")?,
        Kind::RequestResponse | Kind::ConnectRequestClose => {
            round_trips(kind, to, connections, span)?
        }
    };
    println!(
        "{} {:.6} {} {}",
        measured.units, measured.seconds, measured.p50, measured.p99
    );
    Ok(())
}

fn bulk(to: SocketAddr, span: Duration) -> std::io::Result<Measured> {
    let mut socket = TcpStream::connect(to)?;
    let mut buffer = vec![0x5a; BULK_BUFFER];
    buffer[0] = Kind::Bulk.byte();
    let (clock, end) = (Stopwatch::start(), Deadline::after(span));
    socket.write_all(&buffer[..MESSAGE])?;
    while !end.passed() {
        socket.write_all(&buffer)?;
    }
    socket.shutdown(std::net::Shutdown::Write)?;
    // Only what arrived counts, and the time that it took to arrive.
    let mut count = [0; 8];
    socket.read_exact(&mut count)?;
    Ok(Measured {
        units: u64::from_be_bytes(count),
        seconds: clock.elapsed().as_secs_f64(),
        ..Measured::default()
    })
}

fn round_trips(kind: Kind, to: SocketAddr, connections: usize, span: Duration) -> Result<Measured> {
    on_one_thread(async move {
        let clock = Stopwatch::start();
        let end = Rc::new(Deadline::after(span));
        let tasks: Vec<_> = (0..connections)
            .map(|_| {
                let end = Rc::clone(&end);
                tokio::task::spawn_local(async move {
                    match kind {
                        Kind::ConnectRequestClose => again_and_again(to, *end).await,
                        Kind::Bulk | Kind::RequestResponse => on_one_connection(to, *end).await,
                    }
                })
            })
            .collect();
        let mut took = Vec::new();
        for task in tasks {
            let joined = task
                .await
                .map_err(|e| Error::Unexpected(format!("a client task: {e}")))?;
            took.extend(joined.doing(|| "a round trip")?);
        }
        let seconds = clock.elapsed().as_secs_f64();
        took.sort_unstable();
        let at = |percent: usize| {
            took.get((took.len() * percent / 100).min(took.len().saturating_sub(1)))
                .copied()
                .unwrap_or(0)
        };
        Ok(Measured {
            units: took.len() as u64,
            seconds,
            p50: at(50),
            p99: at(99),
        })
    })
}

/// Round trips on one connection; how long each took, in microseconds.
async fn on_one_connection(to: SocketAddr, end: Deadline) -> std::io::Result<Vec<u64>> {
    let mut socket = tokio::net::TcpStream::connect(to).await?;
    socket.set_nodelay(true)?;
    let mut took = Vec::new();
    while !end.passed() {
        let clock = Stopwatch::start();
        round_trip(&mut socket).await?;
        took.push(micros(clock));
    }
    Ok(took)
}

/// A connection for each round trip; its opening counts.
async fn again_and_again(to: SocketAddr, end: Deadline) -> std::io::Result<Vec<u64>> {
    let mut took = Vec::new();
    while !end.passed() {
        let clock = Stopwatch::start();
        let mut socket = tokio::net::TcpStream::connect(to).await?;
        round_trip(&mut socket).await?;
        took.push(micros(clock));
    }
    Ok(took)
}

async fn round_trip(socket: &mut tokio::net::TcpStream) -> std::io::Result<()> {
    let mut message = [Kind::RequestResponse.byte(); MESSAGE];
    socket.write_all(&message).await?;
    socket.read_exact(&mut message).await.map(drop)
}

fn micros(clock: Stopwatch) -> u64 {
    u64::try_from(clock.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn on_one_thread<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .doing(|| "starting a runtime")?;
    LocalSet::new().block_on(&runtime, work)
}

fn number<T>(word: &str) -> Result<T>
where
    T: FromStr<Err: Display>,
{
    word.parse().map_err(|why| Error::Unreadable {
        what: format!("the argument {word:?}"),
        why: format!("{why}"),
    })
}
