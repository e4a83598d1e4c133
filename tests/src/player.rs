//! Servers and clients in pods: the test application playing a script.

use std::net::SocketAddr;

use crate::deadline::Deadline;
use crate::error::{Error, Result, ensure};
use crate::node::Family;
use crate::pod::Pod;
use crate::process::Process;
use crate::programs;
use crate::script::{Connect, Ended, Event, How, Serve, SocketKind, Step, Task};
use crate::talker::Talker;

impl Serve {
    /// On a port of all addresses of both families.
    pub fn on(port: u16, script: impl Into<Vec<Step>>) -> Self {
        Self {
            listen: Family::BOTH.map(|family| family.any(port)).to_vec(),
            socket: SocketKind {
                v6_only: true,
                ..SocketKind::default()
            },
            script: script.into(),
        }
    }

    /// On one address only.
    #[must_use]
    pub fn only_at(mut self, address: SocketAddr) -> Self {
        self.listen = vec![address];
        self
    }

    #[must_use]
    pub fn socket(mut self, socket: SocketKind) -> Self {
        self.socket = socket;
        self
    }
}

impl Connect {
    /// One connection, opened as most programs do it.
    pub fn to(to: SocketAddr, script: impl Into<Vec<Step>>) -> Self {
        Self {
            to: vec![to],
            bind: None,
            how: How::NonBlocking,
            socket: SocketKind::default(),
            connections: 1,
            at_once: 1,
            script: script.into(),
        }
    }

    /// Several destinations, taken in turn.
    #[must_use]
    pub fn to_each(mut self, to: &[SocketAddr]) -> Self {
        self.to = to.to_vec();
        self
    }

    #[must_use]
    pub fn bind(mut self, bind: SocketAddr) -> Self {
        self.bind = Some(bind);
        self
    }

    #[must_use]
    pub fn how(mut self, how: How) -> Self {
        self.how = how;
        self
    }

    #[must_use]
    pub fn socket(mut self, socket: SocketKind) -> Self {
        self.socket = socket;
        self
    }

    /// `connections` in all, `at_once` of them at the same time.
    #[must_use]
    pub fn many(mut self, connections: usize, at_once: usize) -> Self {
        self.connections = connections;
        self.at_once = at_once;
        self
    }
}

/// A server that is ready; it ends when dropped.
#[derive(Debug)]
pub struct Server {
    player: Talker,
    listening: Vec<SocketAddr>,
}

impl Server {
    pub(crate) fn start(pod: &Pod, task: &Task) -> Result<Self> {
        let mut player = start(pod, task, "server")?;
        match event(&mut player, Deadline::default())? {
            Some(Event::Ready { listening }) => Ok(Self { player, listening }),
            other => Err(unexpected("a server", other)),
        }
    }

    /// Port of its first listener.
    pub fn port(&self) -> u16 {
        self.listening.first().map_or(0, SocketAddr::port)
    }

    /// How the next of its connections ended.
    pub fn ended(&mut self) -> Result<Ended> {
        match event(&mut self.player, Deadline::default())? {
            Some(Event::Ended(ended)) => Ok(ended),
            other => Err(unexpected("a server", other)),
        }
    }

    /// How the next `count` of its connections ended.
    pub fn ended_all(&mut self, count: usize) -> Result<Vec<Ended>> {
        (0..count).map(|_| self.ended()).collect()
    }

    /// Fails unless the next `count` connections ended well.
    pub fn ended_well(&mut self, count: usize) -> Result<Vec<Ended>> {
        all_well(self.ended_all(count)?)
    }

    /// Whether nothing ended that nobody has asked about yet.
    pub fn has_nothing_to_tell(&mut self) -> Result<bool> {
        match self.player.line(Deadline::after(std::time::Duration::ZERO)) {
            Err(Error::TimedOut { .. }) => Ok(true),
            Ok(_) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Lets all connections pass their next `Hold`.
    pub fn go(&mut self) -> Result {
        self.player.say("go")
    }

    pub fn process(&mut self) -> &mut Process {
        self.player.process()
    }
}

/// A client at work.
#[derive(Debug)]
pub struct Client {
    player: Talker,
    connections: usize,
}

/// Who answered a datagram, or the name of the error.
pub type Udp = std::result::Result<SocketAddr, String>;

impl Client {
    pub(crate) fn start(pod: &Pod, task: &Task) -> Result<Self> {
        let connections = match task {
            Task::Connect(connect) => connect.connections,
            _ => 0,
        };
        let mut player = start(pod, task, "client")?;
        if connections > 0 {
            match event(&mut player, Deadline::default())? {
                Some(Event::Ready { .. }) => {}
                other => return Err(unexpected("a client", other)),
            }
        }
        Ok(Self {
            player,
            connections,
        })
    }

    /// Waits until all open connections stand in `Hold`; tells how many.
    pub fn held(&mut self) -> Result<usize> {
        match event(&mut self.player, Deadline::default())? {
            Some(Event::Held { connections }) => Ok(connections),
            other => Err(unexpected("a client", other)),
        }
    }

    /// Lets all connections pass their next `Hold`.
    pub fn go(&mut self) -> Result {
        self.player.say("go")
    }

    /// How the next of its connections ended.
    pub fn ended(&mut self) -> Result<Ended> {
        self.ended_within(Deadline::default())
    }

    pub fn ended_within(&mut self, deadline: Deadline) -> Result<Ended> {
        loop {
            match event(&mut self.player, deadline)? {
                Some(Event::Ended(ended)) => return Ok(ended),
                Some(Event::Held { .. }) => {}
                other => return Err(unexpected("a client", other)),
            }
        }
    }

    /// How all of its connections ended.
    pub fn ended_all(mut self) -> Result<Vec<Ended>> {
        (0..self.connections).map(|_| self.ended()).collect()
    }

    /// Fails unless all of its connections ended well.
    pub fn ended_well(self) -> Result<Vec<Ended>> {
        all_well(self.ended_all()?)
    }

    pub(crate) fn the_one(mut self) -> Result<Ended> {
        self.ended()
    }

    pub(crate) fn datagram(mut self) -> Result<Udp> {
        match event(&mut self.player, Deadline::default())? {
            Some(Event::Datagram { from }) => Ok(Ok(from)),
            Some(Event::Failed { error, .. }) => Ok(Err(error)),
            other => Err(unexpected("a client", other)),
        }
    }

    pub fn process(&mut self) -> &mut Process {
        self.player.process()
    }
}

fn start(pod: &Pod, task: &Task, role: &str) -> Result<Talker> {
    let task = serde_json::to_string(task).map_err(|e| Error::Unreadable {
        what: "a task".into(),
        why: e.to_string(),
    })?;
    pod.spawn(programs::test_app()?)?
        .named(&format!("{}-{role}", pod.name()))
        .arg(task)
        .start_talking()
}

fn event(player: &mut Talker, deadline: Deadline) -> Result<Option<Event>> {
    let Some(line) = player.line(deadline)? else {
        return Ok(None);
    };
    serde_json::from_str(&line)
        .map(Some)
        .map_err(|e| Error::Unreadable {
            what: format!("an event of the test application, {line}"),
            why: e.to_string(),
        })
}

fn unexpected(who: &str, event: Option<Event>) -> Error {
    Error::Unexpected(match event {
        Some(event) => format!("{who} reported {event:?}"),
        None => format!("{who} ended"),
    })
}

fn all_well(all: Vec<Ended>) -> Result<Vec<Ended>> {
    let ill: Vec<&Ended> = all.iter().filter(|ended| !ended.is_well()).collect();
    ensure(ill.is_empty(), || {
        format!(
            "{} of {} connections did not end well; the first: {:?}",
            ill.len(),
            all.len(),
            ill.first()
        )
    })?;
    Ok(all)
}
