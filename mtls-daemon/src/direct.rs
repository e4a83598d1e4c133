//! Connections that are carried without a tunnel: to whoever is outside of the
//! mesh, such as API servers, nodes, databases of somebody else's; and, where
//! the mode is permissive, to and from workloads that have no daemon.
//!
//! Nothing is encrypted here; all else is as in a tunnel. They leave from the
//! workload's own address, half-close is carried as half-close, RST as RST, and
//! a cut never looks like an end.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use slab::Slab;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream as Socket;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::netns::Cookie;
use crate::reason::Reason;
use crate::refused::Refused;
use crate::tunnel::{Carried, CarryEnd, Cut, code};
use crate::workload::Workload;

/// What is read at once.
const CHUNK: usize = 16 << 10;

/// The far side of a connection without a tunnel: a server that was dialled, or
/// a client that was accepted. Dropping it resets that one.
pub struct Far {
    socket: Socket,
    instance: Cookie,
}

impl Far {
    /// A client that came to `workload`. Its socket must be non-blocking and
    /// carry `SO_LINGER {1,0}`.
    pub fn client(socket: TcpStream, workload: &Workload) -> io::Result<Self> {
        Ok(Self {
            socket: Socket::from_std(socket)?,
            instance: workload.netns.cookie(),
        })
    }
}

/// Dials from the workload's own address.
pub async fn connect(
    workload: &Workload,
    server: SocketAddr,
    limit: Duration,
) -> Result<Far, Refused> {
    let unreachable = |what: String| Refused::new(Reason::UpstreamRefused, what);
    let own = workload.source_for(server.ip()).ok_or_else(|| {
        let family = if server.is_ipv4() { "IPv4" } else { "IPv6" };
        unreachable(format!("{} has no {family} address", workload.name))
    })?;
    let made = workload.netns.stream_from(own).and_then(|socket| {
        // From birth: a daemon that dies resets the server, too.
        socket.set_linger(Some(Duration::ZERO))?;
        Ok(socket)
    });
    let socket = made.map_err(|error| Refused::socket(&error, "making a socket"))?;
    let dial = tokio::net::TcpSocket::from_std_stream(socket.into()).connect(server);
    match timeout(limit, dial).await {
        Ok(Ok(socket)) => Ok(Far {
            socket,
            instance: workload.netns.cookie(),
        }),
        Ok(Err(error)) => Err(unreachable(format!("{server}: {error}"))),
        Err(_elapsed) => Err(unreachable(format!("{server} did not answer in {limit:?}"))),
    }
}

/// The open ones of a worker.
#[derive(Default)]
pub struct Directs(RefCell<Slab<(Cookie, Rc<Moved>)>>);

impl Directs {
    /// Moves the bytes between the application and the far side until both
    /// halves have ended. The application's socket must be non-blocking and
    /// carry `SO_LINGER {1,0}`. Dropping the future resets both.
    pub fn carry(self: &Rc<Self>, app: TcpStream, far: Far) -> Direct {
        let (cut, is_cut) = oneshot::channel();
        let moved = Rc::new(Moved {
            to_peer: Cell::default(),
            from_peer: Cell::default(),
            cut: Cell::new(Some(cut)),
        });
        let counted = Rc::clone(&moved);
        let nth = (self.0.borrow_mut()).insert((far.instance, Rc::clone(&moved)));
        let listed = Listed(Rc::clone(self), nth);
        let carried = async move {
            let end = match Socket::from_std(app) {
                Ok(app) => relay(&app, &far.socket, &counted, is_cut).await,
                Err(error) => CarryEnd::Local(error),
            };
            drop(listed);
            let (to_peer, from_peer) = counted.bytes();
            Carried {
                to_peer,
                from_peer,
                end,
            }
        };
        Direct {
            carried: Box::pin(carried),
            moved,
        }
    }

    /// Resets those of a workload's instance, or all.
    pub fn cut(&self, instance: Option<Cookie>, why: Cut) {
        for (_, (of, moved)) in self.0.borrow().iter() {
            if instance.is_none_or(|wanted| wanted == *of) {
                moved.cut(why);
            }
        }
    }
}

struct Listed(Rc<Directs>, usize);

impl Drop for Listed {
    fn drop(&mut self) {
        self.0.0.borrow_mut().remove(self.1);
    }
}

/// A connection that is being carried.
pub struct Direct {
    carried: Pin<Box<dyn Future<Output = Carried>>>,
    moved: Rc<Moved>,
}

impl Direct {
    pub fn moved(&self) -> Rc<Moved> {
        Rc::clone(&self.moved)
    }
}

impl Future for Direct {
    type Output = Carried;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Carried> {
        self.carried.as_mut().poll(cx)
    }
}

/// How much a connection has moved so far, and the way to end it.
pub struct Moved {
    to_peer: Cell<u64>,
    from_peer: Cell<u64>,
    cut: Cell<Option<oneshot::Sender<Cut>>>,
}

impl Moved {
    /// Resets both sides now, if it has not ended yet.
    pub fn cut(&self, why: Cut) {
        if let Some(cut) = self.cut.take() {
            // It may have ended in this moment.
            let _ = cut.send(why);
        }
    }

    /// To the far side and from it.
    pub fn bytes(&self) -> (u64, u64) {
        (self.to_peer.get(), self.from_peer.get())
    }
}

async fn relay(
    app: &Socket,
    far: &Socket,
    moved: &Moved,
    is_cut: oneshot::Receiver<Cut>,
) -> CarryEnd {
    let both = async {
        tokio::try_join!(
            copy(app, far, &moved.to_peer, Side::App),
            copy(far, app, &moved.from_peer, Side::Far),
        )
    };
    let cut = async {
        match is_cut.await {
            Ok(cut) => cut,
            Err(_dropped) => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        cut = cut => return CarryEnd::Cut(cut),
        ended = both => ended,
    };
    match ended {
        Ok(_) => {
            for socket in [app, far] {
                // What is still on its way shall arrive.
                if let Err(error) = SockRef::from(socket).set_linger(None) {
                    return CarryEnd::Local(error);
                }
            }
            CarryEnd::Done
        }
        Err(Side::App) => CarryEnd::ResetByApp,
        Err(Side::Far) => CarryEnd::ResetByPeer(code::CONNECT_ERROR),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    App,
    Far,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::App => Self::Far,
            Self::Far => Self::App,
        }
    }
}

/// One half, to its end. The error is the side whose connection has failed.
async fn copy(from: &Socket, to: &Socket, moved: &Cell<u64>, side: Side) -> Result<(), Side> {
    loop {
        // The other side may fail while this one says nothing.
        tokio::select! {
            biased;
            ready = from.readable() => ready.map_err(|_failed| side)?,
            _ = to.ready(Interest::ERROR) => return Err(side.other()),
        }
        let (read, rest) = match pass(from, to, side)? {
            Passed::Nothing => continue,
            Passed::Bytes { read, rest } => (read, rest),
            Passed::End => {
                let shut = SockRef::from(to).shutdown(Shutdown::Write);
                return shut.map_err(|_failed| side.other());
            }
        };
        let mut rest = rest.as_slice();
        while !rest.is_empty() {
            tokio::select! {
                biased;
                ready = to.writable() => ready.map_err(|_failed| side.other())?,
                _ = from.ready(Interest::ERROR) => return Err(side),
            }
            let written = write(to, rest).map_err(|_failed| side.other())?;
            rest = &rest[written..];
        }
        moved.set(moved.get() + read as u64);
    }
}

enum Passed {
    Nothing,
    Bytes {
        read: usize,
        /// What the other side does not take yet; most often nothing.
        rest: Vec<u8>,
    },
    End,
}

/// Reads once, on the stack: an idle connection has no buffer.
fn pass(from: &Socket, to: &Socket, side: Side) -> Result<Passed, Side> {
    let mut chunk = [0; CHUNK];
    match from.try_read(&mut chunk) {
        Ok(0) => Ok(Passed::End),
        Ok(read) => {
            let written = write(to, &chunk[..read]).map_err(|_failed| side.other())?;
            Ok(Passed::Bytes {
                read,
                rest: chunk[written..read].to_vec(),
            })
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Passed::Nothing),
        Err(_) => Err(side),
    }
}

/// As much as is taken now.
fn write(to: &Socket, bytes: &[u8]) -> io::Result<usize> {
    match to.try_write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use tokio::task::LocalSet;

    use super::*;

    /// An application, the server that it dialled, and what carries between them.
    async fn cast() -> (TcpStream, TcpStream, Rc<Directs>, Direct) {
        let pair = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let accepted = listener.accept().unwrap().0;
            for ours in [&dialled, &accepted] {
                SockRef::from(ours)
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
            }
            (dialled, accepted)
        };
        let ((app, ours), (towards, server)) = (pair(), pair());
        for theirs in [&app, &server] {
            SockRef::from(theirs).set_linger(None).unwrap();
        }
        ours.set_nonblocking(true).unwrap();
        towards.set_nonblocking(true).unwrap();
        let far = Far {
            socket: Socket::from_std(towards).unwrap(),
            instance: Cookie(7),
        };
        let directs = Rc::new(Directs::default());
        let direct = directs.carry(ours, far);
        (app, server, directs, direct)
    }

    async fn told(mut end: TcpStream) -> io::Result<Vec<u8>> {
        let read = move || {
            let mut all = Vec::new();
            end.read_to_end(&mut all).map(|_| all)
        };
        tokio::task::spawn_blocking(read).await.unwrap()
    }

    fn is_reset<T>(read: &io::Result<T>) -> bool {
        matches!(read, Err(error) if error.kind() == io::ErrorKind::ConnectionReset)
    }

    #[tokio::test]
    async fn more_than_fits_arrives_and_each_half_ends_by_itself() {
        const LOT: usize = 8 << 20;
        let (mut app, mut server, directs, direct) = cast().await;
        let talk = thread::spawn(move || {
            app.write_all(&vec![1; LOT]).unwrap();
            app.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            app.read_to_end(&mut answer).unwrap();
            answer
        });
        let serve = thread::spawn(move || {
            let mut heard = Vec::new();
            server.read_to_end(&mut heard).unwrap();
            server.write_all(b"thanks").unwrap();
            heard.len()
        });
        let carried = direct.await;
        assert!(matches!(carried.end, CarryEnd::Done), "{:?}", carried.end);
        assert_eq!((carried.to_peer, carried.from_peer), (LOT as u64, 6));
        assert_eq!(serve.join().unwrap(), LOT);
        assert_eq!(talk.join().unwrap(), b"thanks");
        assert!(directs.0.borrow().is_empty());
    }

    #[tokio::test]
    async fn a_reset_is_carried_either_way_also_past_the_end_of_a_half() {
        for half_closed in [false, true] {
            for from_app in [true, false] {
                let (app, server, _directs, direct) = cast().await;
                let (who_resets, other) = match from_app {
                    true => (app, server),
                    false => (server, app),
                };
                if half_closed {
                    who_resets.shutdown(Shutdown::Write).unwrap();
                }
                let resets = async move {
                    if half_closed {
                        let mut ear = other.try_clone().unwrap();
                        let heard = move || ear.read(&mut [0]).unwrap();
                        assert_eq!(tokio::task::spawn_blocking(heard).await.unwrap(), 0);
                    }
                    SockRef::from(&who_resets)
                        .set_linger(Some(Duration::ZERO))
                        .unwrap();
                    drop(who_resets);
                    other
                };
                let (carried, other) = tokio::join!(direct, resets);
                let expected = match from_app {
                    true => matches!(carried.end, CarryEnd::ResetByApp),
                    false => matches!(carried.end, CarryEnd::ResetByPeer(_)),
                };
                assert!(expected, "{half_closed} {from_app}: {:?}", carried.end);
                let heard = told(other).await;
                assert!(is_reset(&heard) || half_closed, "{heard:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_cut_resets_both_and_only_those_meant() {
        LocalSet::new()
            .run_until(async {
                let (app, server, directs, direct) = cast().await;
                let carried = tokio::task::spawn_local(direct);
                tokio::task::yield_now().await;
                directs.cut(Some(Cookie(8)), Cut(Reason::WorkloadRemoved));
                tokio::task::yield_now().await;
                assert!(!carried.is_finished());
                directs.cut(Some(Cookie(7)), Cut(Reason::WorkloadRemoved));
                let end = carried.await.unwrap().end;
                assert!(matches!(end, CarryEnd::Cut(Cut(Reason::WorkloadRemoved))));
                assert!(is_reset(&told(app).await) && is_reset(&told(server).await));
            })
            .await;
    }
}
