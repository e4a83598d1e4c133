//! Network namespaces of workloads: the only place that knows how to enter one.
//!
//! A socket belongs for life to the namespace of the thread that made it, so
//! whoever enters one, the [`helper`], makes sockets and hands them out.

mod helper;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::Instant;

use helper::{Ask, MOST_SOCKETS};
pub use helper::{FileId, start as start_helper};

/// Number that the kernel gave a network namespace at its birth and gives to
/// no other until the machine restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cookie(pub u64);

/// One network namespace, kept alive as long as a clone of this is.
///
/// Holding it also keeps the workload's veth alive: whoever learns that the
/// workload is gone drops it at once.
#[derive(Clone, Debug)]
pub struct Netns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    cookie: Cookie,
    /// The one that this process runs in.
    is_home: bool,
    /// Streams of IPv4 and of IPv6 for what is dialled next.
    stocks: [Mutex<Stock>; 2],
    /// Raw sockets of IPv4 and of IPv6.
    raw: [OnceLock<Socket>; 2],
}

impl Netns {
    /// Open the namespace that the file at `path` names, such as
    /// `/run/netns/web` or `/proc/4711/ns/net`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let opened = helper::ask(Ask::Open(path))?.descriptors.pop();
        Self::of(opened.ok_or(io::ErrorKind::InvalidData)?)
    }

    /// The namespace behind a descriptor.
    pub fn of(fd: OwnedFd) -> io::Result<Self> {
        let first = sockets(fd.as_fd(), Kind::StreamV4, 1)?;
        let cookie = cookie_of(first.first().ok_or(io::ErrorKind::InvalidData)?)?;
        Ok(Self::new(fd, cookie, false))
    }

    /// The namespace that this process runs in: the host's.
    pub fn host() -> io::Result<Self> {
        let fd = home()?.try_clone()?;
        let cookie = cookie_of(&Kind::StreamV4.make()?)?;
        Ok(Self::new(fd, cookie, true))
    }

    fn new(fd: OwnedFd, cookie: Cookie, is_home: bool) -> Self {
        Self(Arc::new(Inner {
            fd,
            cookie,
            is_home,
            stocks: Default::default(),
            raw: Default::default(),
        }))
    }

    /// A path that names it, for as long as this is held.
    pub fn path(&self) -> PathBuf {
        let (pid, fd) = (std::process::id(), self.0.fd.as_raw_fd());
        PathBuf::from(format!("/proc/{pid}/fd/{fd}"))
    }

    /// Whether the file at `path` still names this namespace.
    pub fn is_at(&self, path: &Path) -> bool {
        // The inode cannot be given to another namespace while we hold this.
        let (Ok(ours), Ok(there)) = (nix::sys::stat::fstat(&self.0.fd), look(path)) else {
            return false;
        };
        (ours.st_dev, ours.st_ino) == (there.device, there.inode)
    }

    pub fn cookie(&self) -> Cookie {
        self.0.cookie
    }

    /// A socket of a kind.
    pub fn socket(&self, kind: Kind) -> io::Result<OwnedFd> {
        let mut made = self.sockets(kind, 1)?;
        made.pop().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn sockets(&self, kind: Kind, count: u8) -> io::Result<Vec<OwnedFd>> {
        if self.0.is_home {
            return (0..count).map(|_| kind.make()).collect();
        }
        sockets(self.0.fd.as_fd(), kind, count)
    }

    /// A TCP socket that does not block, sends small segments at once, and
    /// speaks one family only.
    pub fn stream(&self, family: Family) -> io::Result<Socket> {
        let mut stock =
            (self.0.stocks[family as usize].lock()).unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = stock.sockets.pop() {
            return Ok(socket);
        }
        let kind = match family {
            Family::V4 => Kind::StreamV4,
            Family::V6 => Kind::StreamV6,
        };
        let made = self.sockets(kind, stock.batch())?;
        stock.sockets.extend(made.into_iter().map(Socket::from));
        (stock.sockets.pop()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// A socket for a connection from `source`, any port, not yet connected.
    pub fn stream_from(&self, source: IpAddr) -> io::Result<Socket> {
        let socket = self.stream(Family::of(source))?;
        // The port is chosen at connect, where the kernel can share it
        // between destinations.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        Ok(socket)
    }

    /// A listener on loopback that only the kernel's socket look-up program
    /// leads to: its own port is any and means nothing.
    ///
    /// Accepted sockets inherit `SO_LINGER {1, 0}`, so that a daemon that dies
    /// resets its applications instead of ending their streams as if complete.
    pub fn loopback_listener(&self, family: Family) -> io::Result<Socket> {
        let ip = match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let socket = self.stream(family)?;
        // Without this a connection steered to us would make its port look
        // taken to an application that binds it (Linux 6.18: EADDRINUSE).
        socket.set_reuse_address(true)?;
        socket.set_linger(Some(Duration::ZERO))?;
        socket.bind(&SocketAddr::new(ip, 0).into())?;
        socket.listen(4096)?;
        Ok(socket)
    }

    /// Sends `packet`, IP header and all, to `to`.
    pub fn send_raw(&self, packet: &[u8], to: IpAddr) -> io::Result<()> {
        let family = Family::of(to);
        let kept = &self.0.raw[family as usize];
        let socket = match kept.get() {
            Some(socket) => socket,
            None => {
                let kind = match family {
                    Family::V4 => Kind::RawV4,
                    Family::V6 => Kind::RawV6,
                };
                let made = self.socket(kind)?.into();
                kept.get_or_init(|| made)
            }
        };
        socket
            .send_to(packet, &SocketAddr::new(to, 0).into())
            .map(drop)
    }

    /// Gives back what was made for connections that do not come.
    pub fn tidy(&self) {
        for stock in &self.0.stocks {
            let mut stock = stock.lock().unwrap_or_else(PoisonError::into_inner);
            if stock.refilled.is_none_or(|at| at.elapsed() > SOON) {
                stock.sockets = Vec::new();
            }
        }
    }
}

/// Sockets that were made together, one after another in demand: asking for
/// one costs as much as asking for many.
#[derive(Debug, Default)]
struct Stock {
    sockets: Vec<Socket>,
    refilled: Option<Instant>,
    last_batch: u8,
}

/// What was used up sooner was too little.
const SOON: Duration = Duration::from_secs(1);

impl Stock {
    /// How many to make now: twice as many as were used up lately.
    fn batch(&mut self) -> u8 {
        let now = Instant::now();
        let lately = (self.refilled).is_some_and(|at| now.duration_since(at) < SOON);
        self.refilled = Some(now);
        self.last_batch = match lately {
            true => self.last_batch.saturating_mul(2).clamp(1, MOST_SOCKETS),
            false => 1,
        };
        self.last_batch
    }
}

fn sockets(netns: BorrowedFd<'_>, kind: Kind, count: u8) -> io::Result<Vec<OwnedFd>> {
    Ok(helper::ask(Ask::Sockets(netns, kind, count))?.descriptors)
}

/// Which file is at a path, be it one in /proc that needs CAP_SYS_PTRACE.
pub fn look(path: &Path) -> io::Result<FileId> {
    match FileId::at(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Ok(helper::ask(Ask::Look(path))?.file)
        }
        seen => seen,
    }
}

/// The sockets that are needed in workloads' namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    StreamV4,
    StreamV6,
    /// Sends packets with their headers, and receives none.
    RawV4,
    RawV6,
    /// sock_diag(7).
    SockDiag,
    /// rtnetlink(7).
    Route,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::StreamV4,
        Self::StreamV6,
        Self::RawV4,
        Self::RawV6,
        Self::SockDiag,
        Self::Route,
    ];

    /// In the namespace of the calling thread.
    fn make(self) -> io::Result<OwnedFd> {
        const IPPROTO_RAW: i32 = 255;
        let raw = || Type::from(libc::SOCK_RAW);
        let (domain, kind, protocol) = match self {
            Self::StreamV4 => (Domain::IPV4, Type::STREAM.nonblocking(), libc::IPPROTO_TCP),
            Self::StreamV6 => (Domain::IPV6, Type::STREAM.nonblocking(), libc::IPPROTO_TCP),
            Self::RawV4 => (Domain::IPV4, raw().nonblocking(), IPPROTO_RAW),
            Self::RawV6 => (Domain::IPV6, raw().nonblocking(), IPPROTO_RAW),
            Self::SockDiag => (
                Domain::from(libc::AF_NETLINK),
                Type::DGRAM.nonblocking(),
                libc::NETLINK_SOCK_DIAG,
            ),
            Self::Route => (Domain::from(libc::AF_NETLINK), raw(), libc::NETLINK_ROUTE),
        };
        let socket = Socket::new(domain, kind.cloexec(), Some(Protocol::from(protocol)))?;
        match self {
            Self::StreamV4 => socket.set_tcp_nodelay(true)?,
            Self::StreamV6 => {
                socket.set_tcp_nodelay(true)?;
                socket.set_only_v6(true)?;
            }
            Self::RawV4 | Self::RawV6 | Self::SockDiag | Self::Route => {}
        }
        Ok(socket.into())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

#[expect(unsafe_code, reason = "nix has no SO_NETNS_COOKIE")]
fn cookie_of(socket: &OwnedFd) -> io::Result<Cookie> {
    let mut cookie = 0_u64;
    let mut length: libc::socklen_t = 8;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, which has
    // just that many, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(Cookie(cookie))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// From <asm-generic/socket.h>, Linux 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The namespace in which the process started, to which every visit returns.
fn home() -> io::Result<&'static OwnedFd> {
    static HOME: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(fd) = HOME.get() {
        return Ok(fd);
    }
    let fd = std::fs::File::open("/proc/self/ns/net")?.into();
    Ok(HOME.get_or_init(|| fd))
}
