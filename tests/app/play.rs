//! Plays a script on a connection.

use std::cell::Cell;
use std::io::{self, BufRead};
use std::rc::Rc;

use mtls_tests::script::{Ended, Event, Failure, Step, pattern};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::{report, sockets};

const CHUNK: usize = 128 * 1024;

/// What all connections of a process share: the story's hand on `Hold`.
#[derive(Clone)]
pub(crate) struct Stage {
    /// How many times the story said `go`.
    released: watch::Receiver<usize>,
    open: Rc<Cell<usize>>,
    held: Rc<Cell<usize>>,
}

impl Stage {
    /// `open`: connections to wait for before the first `Held` is said; 0 for
    /// a server, which says none.
    pub(crate) fn new(open: usize) -> Self {
        let (sender, released) = watch::channel(0);
        std::thread::spawn(move || {
            for line in io::stdin().lock().lines().map_while(io::Result::ok) {
                if line == "go" {
                    sender.send_modify(|n| *n += 1);
                }
            }
            // The sender is dropped here: `input_ended` returns.
        });
        Self {
            released,
            open: Rc::new(Cell::new(open)),
            held: Rc::new(Cell::new(0)),
        }
    }

    /// The story has closed our standard input.
    pub(crate) async fn input_ended(&self) {
        let mut released = self.released.clone();
        while released.changed().await.is_ok() {}
    }

    /// A connection, or an attempt at one, is over.
    pub(crate) fn leave(&self) {
        self.open.set(self.open.get().saturating_sub(1));
        self.say_if_all_held();
    }

    /// Waits for the `nth` release.
    async fn hold(&self, nth: usize) {
        self.held.set(self.held.get() + 1);
        self.say_if_all_held();
        let mut released = self.released.clone();
        // An error means that the story is over: go on.
        let _ = released.wait_for(|n| *n >= nth).await;
        self.held.set(self.held.get() - 1);
    }

    fn say_if_all_held(&self) {
        let held = self.held.get();
        if held > 0 && held == self.open.get() {
            report::say(&Event::Held { connections: held });
        }
    }
}

/// Plays the whole script, and notes in `ended` how it went.
pub(crate) async fn play(stream: TcpStream, script: &[Step], stage: &Stage, ended: &mut Ended) {
    let mut player = Player {
        stream,
        stage,
        ended,
        holds: 0,
        buffer: vec![0; CHUNK],
    };
    for (number, step) in script.iter().enumerate() {
        if let Err(e) = player.step(step).await {
            player.ended.failure = Some(Failure {
                step: Some(number),
                error: report::error_name(&e),
            });
            return;
        }
    }
}

struct Player<'a> {
    stream: TcpStream,
    stage: &'a Stage,
    ended: &'a mut Ended,
    holds: usize,
    buffer: Vec<u8>,
}

impl Player<'_> {
    async fn step(&mut self, step: &Step) -> io::Result<()> {
        let (mut reader, mut writer) = self.stream.split();
        let Ended {
            sent,
            received,
            corrupt_at,
            ..
        } = &mut *self.ended;
        match step {
            Step::Send { bytes, seed } => send(&mut writer, *bytes, *seed, sent).await,
            Step::SendForEver { seed } => send(&mut writer, u64::MAX, *seed, sent).await,
            Step::Receive { bytes, seed } => {
                let got = receive(&mut reader, *bytes, *seed, received, corrupt_at).await?;
                expect_all(got, *bytes)
            }
            Step::ReceiveToEnd { seed } => {
                receive(&mut reader, u64::MAX, *seed, received, corrupt_at)
                    .await
                    .map(drop)
            }
            Step::Exchange {
                bytes,
                send: out,
                receive: back,
            } => {
                let (sending, got) = tokio::join!(
                    send(&mut writer, *bytes, *out, sent),
                    receive(&mut reader, *bytes, *back, received, corrupt_at),
                );
                sending?;
                expect_all(got?, *bytes)
            }
            Step::Echo => loop {
                let n = reader.read(&mut self.buffer).await?;
                if n == 0 {
                    return Ok(());
                }
                *received += n as u64;
                writer.write_all(&self.buffer[..n]).await?;
                *sent += n as u64;
            },
            Step::Say(text) => {
                writer.write_all(text.as_bytes()).await?;
                *sent += text.len() as u64;
                Ok(())
            }
            Step::Hear(text) => {
                let mut heard = vec![0; text.len()];
                reader.read_exact(&mut heard).await?;
                note_corruption(&heard, text.as_bytes(), *received, corrupt_at);
                *received += heard.len() as u64;
                Ok(())
            }
            Step::Hold => {
                self.holds += 1;
                self.stage.hold(self.holds).await;
                Ok(())
            }
            Step::HalfClose => writer.shutdown().await,
            Step::ExpectEnd => match reader.read(&mut [0; 1]).await? {
                0 => Ok(()),
                _ => Err(io::Error::other("a byte came where the end was expected")),
            },
            Step::Reset => sockets::reset_on_close(&self.stream),
        }
    }
}

fn expect_all(got: u64, expected: u64) -> io::Result<()> {
    if got == expected {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

async fn send(
    writer: &mut (impl AsyncWrite + Unpin),
    bytes: u64,
    seed: u64,
    sent: &mut u64,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < bytes {
        let n = usize::try_from(bytes - at).unwrap_or(CHUNK).min(CHUNK);
        pattern(seed, at, &mut buffer[..n]);
        let mut rest = &buffer[..n];
        while !rest.is_empty() {
            let written = writer.write(rest).await?;
            *sent += written as u64;
            rest = &rest[written..];
        }
        at += n as u64;
    }
    Ok(())
}

/// How many bytes came before the end of the stream, at most `bytes`.
async fn receive(
    reader: &mut (impl AsyncRead + Unpin),
    bytes: u64,
    seed: u64,
    received: &mut u64,
    corrupt_at: &mut Option<u64>,
) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut expected = vec![0; CHUNK];
    let mut at = 0;
    while at < bytes {
        let most = usize::try_from(bytes - at).unwrap_or(CHUNK).min(CHUNK);
        let n = reader.read(&mut buffer[..most]).await?;
        if n == 0 {
            break;
        }
        pattern(seed, at, &mut expected[..n]);
        note_corruption(&buffer[..n], &expected[..n], *received, corrupt_at);
        *received += n as u64;
        at += n as u64;
    }
    Ok(at)
}

fn note_corruption(found: &[u8], expected: &[u8], offset: u64, corrupt_at: &mut Option<u64>) {
    if found != expected && corrupt_at.is_none() {
        let within = found.iter().zip(expected).position(|(a, b)| a != b);
        *corrupt_at = Some(offset + within.unwrap_or(0) as u64);
    }
}
