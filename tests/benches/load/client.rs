//! The client: one thread for round trips on any number of connections, a
//! thread a connection in bulk.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use mtls_tests::deadline::{Deadline, Stopwatch};
use mtls_tests::{Doing, Error, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{BULK_BUFFER, Kind, LAST, MESSAGE, Measured, Order, number, on_one_thread};

/// Does it and prints what was measured.
pub(crate) fn run(to: &str, kind: &str, connections: &str, millis: &str) -> Result {
    let to: SocketAddr = number(to)?;
    let order = Order::parse(kind, connections, millis)?;
    let measured = match order.kind {
        Kind::Bulk | Kind::BulkBack => bulk(to, order)?,
        Kind::RequestResponse | Kind::ConnectRequestClose => round_trips(to, order)?,
    };
    let text = serde_json::to_string(&measured)
        .map_err(|e| Error::Unexpected(format!("writing the report: {e}")))?;
    println!("{text}");
    Ok(())
}

fn bulk(to: SocketAddr, order: Order) -> Result<Measured> {
    let clock = Stopwatch::start();
    let one: fn(_, _) -> _ = match order.kind {
        Kind::BulkBack => receive,
        _ => send,
    };
    let threads: Vec<_> = (0..order.connections)
        .map(|_| std::thread::spawn(move || one(to, order.span)))
        .collect();
    let mut streams = Vec::new();
    for thread in threads {
        let joined = thread
            .join()
            .map_err(|_panic| Error::Unexpected("a client thread panicked".into()))?;
        streams.push(joined.doing(|| "moving bytes")?);
    }
    // Only what arrived counts, and the time that it took to arrive.
    Ok(Measured {
        units: streams.iter().sum(),
        seconds: clock.elapsed().as_secs_f64(),
        streams,
        ..Measured::default()
    })
}

fn send(to: SocketAddr, span: Duration) -> std::io::Result<u64> {
    let mut socket = TcpStream::connect(to)?;
    let mut buffer = vec![Kind::Bulk.byte(); BULK_BUFFER];
    let end = Deadline::after(span);
    socket.write_all(&buffer[..MESSAGE])?;
    while !end.passed() {
        socket.write_all(&buffer)?;
    }
    buffer[BULK_BUFFER - 1] = LAST;
    socket.write_all(&buffer)?;
    let mut count = [0; 8];
    socket.read_exact(&mut count)?;
    Ok(u64::from_be_bytes(count))
}

fn receive(to: SocketAddr, span: Duration) -> std::io::Result<u64> {
    let mut socket = TcpStream::connect(to)?;
    let mut message = [Kind::BulkBack.byte(); MESSAGE];
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    message[8..16].copy_from_slice(&millis.to_be_bytes());
    socket.write_all(&message)?;
    let mut buffer = vec![0; BULK_BUFFER];
    let mut count = 0;
    loop {
        let n = socket.read(&mut buffer)?;
        let Some(last) = buffer[..n].last() else {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        };
        count += n as u64;
        if *last == LAST {
            return Ok(count);
        }
    }
}

fn round_trips(to: SocketAddr, order: Order) -> Result<Measured> {
    on_one_thread(async move {
        let clock = Stopwatch::start();
        let end = Deadline::after(order.span);
        let tasks: Vec<_> = (0..order.connections)
            .map(|_| {
                tokio::task::spawn_local(async move {
                    match order.kind {
                        Kind::ConnectRequestClose => again_and_again(to, end).await,
                        _ => on_one_connection(to, end).await,
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
        Ok(Measured {
            units: took.len() as u64,
            seconds,
            p50: percentile(&took, 500),
            p99: percentile(&took, 990),
            p999: percentile(&took, 999),
            streams: Vec::new(),
        })
    })
}

/// Microseconds, of sorted nanoseconds.
#[expect(clippy::cast_precision_loss, reason = "a time, for people")]
pub(super) fn percentile(sorted: &[u64], of_thousand: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = (sorted.len() * of_thousand / 1000).min(last);
    sorted.get(at).map_or(0.0, |nanos| *nanos as f64 / 1e3)
}

/// Round trips on one connection; how long each took.
async fn on_one_connection(to: SocketAddr, end: Deadline) -> std::io::Result<Vec<u64>> {
    let mut socket = tokio::net::TcpStream::connect(to).await?;
    socket.set_nodelay(true)?;
    let mut took = Vec::new();
    while !end.passed() {
        let clock = Stopwatch::start();
        round_trip(&mut socket).await?;
        took.push(nanos(clock));
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
        took.push(nanos(clock));
    }
    Ok(took)
}

async fn round_trip(socket: &mut tokio::net::TcpStream) -> std::io::Result<()> {
    let mut message = [Kind::RequestResponse.byte(); MESSAGE];
    socket.write_all(&message).await?;
    socket.read_exact(&mut message).await.map(drop)
}

fn nanos(clock: Stopwatch) -> u64 {
    u64::try_from(clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn percentiles_of_sorted_times() {
        let took: Vec<u64> = (1..=1000).map(|n| n * 1000).collect();
        assert_eq!(percentile(&took, 500), 501.0);
        assert_eq!(percentile(&took, 999), 1000.0);
        assert_eq!(percentile(&[7000], 999), 7.0);
        assert_eq!(percentile(&[], 500), 0.0);
    }
}
