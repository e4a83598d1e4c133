//! The load: a server and a client that do next to nothing with the bytes, so
//! that what is measured is the way between them.
//!
//! The first message on a connection tells the server what is wanted.

mod client;
mod idle;
mod server;

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use mtls_tests::{Doing, Error, Result};
use serde::{Deserialize, Serialize};
use tokio::task::LocalSet;

pub(crate) use client::run;
pub(crate) use idle::{first_and_next, hold, in_turn};
pub(crate) use server::serve;

/// A request and its answer, each.
const MESSAGE: usize = 64;
const BULK_BUFFER: usize = 256 << 10;
/// Ends bulk, which no other byte of it is: not every proxy carries a half-close.
const LAST: u8 = 0xff;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// From client to server, as fast as it goes.
    Bulk,
    /// The same from server to client.
    BulkBack,
    /// One message each way, over and over on the same connection.
    RequestResponse,
    /// One message each way on a new connection every time.
    ConnectRequestClose,
}

impl Kind {
    const ALL: [Self; 4] = [
        Self::Bulk,
        Self::BulkBack,
        Self::RequestResponse,
        Self::ConnectRequestClose,
    ];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::BulkBack => "bulk-back",
            Self::RequestResponse => "rr",
            Self::ConnectRequestClose => "crr",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// The first byte of the first message.
    fn byte(self) -> u8 {
        match self {
            Self::Bulk => b'b',
            Self::BulkBack => b'd',
            Self::RequestResponse | Self::ConnectRequestClose => b'r',
        }
    }
}

/// What a client is told to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) kind: Kind,
    pub(crate) connections: usize,
    pub(crate) span: Duration,
}

impl Order {
    /// As words of the command line.
    pub(crate) fn words(&self) -> [String; 3] {
        [
            self.kind.word().to_owned(),
            self.connections.to_string(),
            self.span.as_millis().to_string(),
        ]
    }

    fn parse(kind: &str, connections: &str, millis: &str) -> Result<Self> {
        Ok(Self {
            kind: Kind::parse(kind)
                .ok_or_else(|| Error::Unexpected(format!("no kind of load {kind:?}")))?,
            connections: number(connections)?,
            span: Duration::from_millis(number(millis)?),
        })
    }
}

/// What a client saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Bytes that arrived, or round trips that were completed.
    pub(crate) units: u64,
    pub(crate) seconds: f64,
    /// Microseconds of a round trip; 0 in bulk.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    /// Bytes of each connection, in bulk.
    pub(crate) streams: Vec<u64>,
}

impl Measured {
    #[expect(clippy::cast_precision_loss, reason = "a rate, for people")]
    pub(crate) fn rate(&self) -> f64 {
        self.units as f64 / self.seconds
    }

    pub(crate) fn gbits(&self) -> f64 {
        self.rate() * 8.0 / 1e9
    }
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
