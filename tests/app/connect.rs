//! A client: the script on every connection it opens.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use mtls_tests::deadline::Stopwatch;
use mtls_tests::script::{Connect, Ended, Event, FIRST_BYTE, Failure, How};
use nix::errno::Errno;
use socket2::Socket;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, spawn_blocking};

use crate::play::{Stage, play};
use crate::{report, sockets, uring};

/// What a client takes before it tries again after a refusal.
const BREATH: Duration = Duration::from_millis(2);

pub(crate) async fn run(task: Connect) -> io::Result<()> {
    let at_once = task.at_once.clamp(1, task.connections.max(1));
    let stage = Stage::new(at_once.min(task.connections));
    report::say(&Event::Ready { listening: vec![] });
    let task = Rc::new(task);
    let next = Rc::new(Cell::new(0));
    let mut runners = JoinSet::new();
    for _ in 0..at_once {
        let (task, next, stage) = (Rc::clone(&task), Rc::clone(&next), stage.clone());
        runners.spawn_local(async move {
            while next.get() < task.connections {
                let nth = next.replace(next.get() + 1);
                let ended = one(&task, nth, &stage).await;
                let breathe = ended.failed_to_connect();
                report::say(&Event::Ended(ended));
                if breathe {
                    tokio::time::sleep(BREATH).await;
                }
            }
            stage.leave();
        });
    }
    while runners.join_next().await.is_some() {}
    Ok(())
}

async fn one(task: &Connect, nth: usize, stage: &Stage) -> Ended {
    let mut ended = Ended::default();
    let to = task.to[nth % task.to.len()];
    let watch = Stopwatch::start();
    match open(task, to).await {
        Ok(stream) => {
            ended.connect_micros = u64::try_from(watch.elapsed().as_micros()).unwrap_or(u64::MAX);
            ended.local = stream.local_addr().ok();
            ended.peer = stream.peer_addr().ok();
            play(stream, &task.script, stage, &mut ended).await;
        }
        Err(e) => {
            ended.connect_micros = u64::try_from(watch.elapsed().as_micros()).unwrap_or(u64::MAX);
            ended.failure = Some(Failure {
                step: None,
                error: report::error_name(&e),
            });
        }
    }
    ended
}

async fn open(task: &Connect, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = sockets::stream(to, task.socket)?;
    if let Some(bind) = task.bind {
        socket.bind(&bind.into())?;
    }
    let how = task.how;
    match how {
        How::NonBlocking | How::FastOpenConnect => {
            if how == How::FastOpenConnect {
                sockets::set_tcp_option(&socket, libc::TCP_FASTOPEN_CONNECT, 1)?;
            }
            socket.set_nonblocking(true)?;
            match socket.connect(&to.into()) {
                Err(e) if e.raw_os_error() != Some(Errno::EINPROGRESS as i32) => return Err(e),
                // Waits for nothing where fast open puts the SYN off.
                Ok(()) => return TcpStream::from_std(socket.into()),
                Err(_) => {}
            }
        }
        How::Blocking | How::IoUring | How::FastOpenSend => {
            let socket = spawn_blocking(move || connect_blocking(socket, to, how))
                .await
                .map_err(io::Error::other)??;
            socket.set_nonblocking(true)?;
            return TcpStream::from_std(socket.into());
        }
    }
    let stream = TcpStream::from_std(socket.into())?;
    stream.ready(Interest::WRITABLE).await?;
    match stream.take_error()? {
        Some(e) => Err(e),
        None => Ok(stream),
    }
}

fn connect_blocking(socket: Socket, to: SocketAddr, how: How) -> io::Result<Socket> {
    match how {
        How::IoUring => uring::connect(&socket, to)?,
        How::FastOpenSend => {
            let sent =
                socket.send_to_with_flags(FIRST_BYTE.as_bytes(), &to.into(), libc::MSG_FASTOPEN)?;
            if sent != FIRST_BYTE.len() {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        How::Blocking | How::NonBlocking | How::FastOpenConnect => socket.connect(&to.into())?,
    }
    Ok(socket)
}
