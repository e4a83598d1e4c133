//! Connections that are opened and do nothing, and ones that are opened once.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use mtls_tests::deadline::Stopwatch;
use mtls_tests::{Doing, Result};

use super::{Kind, MESSAGE, number};

/// Clients that open connections at once.
const AT_ONCE: usize = 64;

/// Opens that many connections, with a round trip on each; says so, and holds
/// them until its standard input ends.
pub(crate) fn hold(to: &str, connections: &str) -> Result {
    let opened = open_all(to, connections, open)?;
    println!("{}", opened.len());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())
        .doing(|| "waiting for the end of standard input")?;
    Ok(())
}

/// Opens and closes that many connections, with a round trip on each.
pub(crate) fn in_turn(to: &str, connections: &str) -> Result {
    let done = open_all(to, connections, |to| open(to).map(drop))?;
    println!("{}", done.len());
    Ok(())
}

/// What `open` made of each.
fn open_all<T: Send>(
    to: &str,
    connections: &str,
    open: fn(SocketAddr) -> std::io::Result<T>,
) -> Result<Vec<T>> {
    let (to, connections) = (number::<SocketAddr>(to)?, number::<usize>(connections)?);
    let opened: std::io::Result<Vec<_>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE)
            .map(|nth| {
                let share = (nth..connections).step_by(AT_ONCE);
                scope.spawn(move || share.map(|_| open(to)).collect::<std::io::Result<Vec<_>>>())
            })
            .collect();
        let mut all = Vec::new();
        for thread in threads {
            match thread.join() {
                Ok(opened) => all.extend(opened?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(all)
    });
    opened.doing(|| "opening connections")
}

/// Two connections in turn; prints the microseconds of each, its opening and
/// one round trip.
pub(crate) fn first_and_next(to: &str) -> Result {
    let to = number::<SocketAddr>(to)?;
    // One to ourselves before them: it is the way that is to be new, not the
    // client's own code.
    to_ourselves().doing(|| "a round trip on loopback")?;
    let mut took = [0.0; 2];
    for each in &mut took {
        let clock = Stopwatch::start();
        open(to).doing(|| "a round trip")?;
        *each = clock.elapsed().as_secs_f64() * 1e6;
    }
    println!("{} {}", took[0], took[1]);
    Ok(())
}

fn open(to: SocketAddr) -> std::io::Result<TcpStream> {
    let mut socket = TcpStream::connect(to)?;
    let mut message = [Kind::RequestResponse.byte(); MESSAGE];
    socket.write_all(&message)?;
    socket.read_exact(&mut message)?;
    Ok(socket)
}

fn to_ourselves() -> std::io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let to = listener.local_addr()?;
    let server = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut socket, _) = listener.accept()?;
        let mut message = [0; MESSAGE];
        socket.read_exact(&mut message)?;
        socket.write_all(&message)
    });
    open(to)?;
    match server.join() {
        Ok(served) => served,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
