//! Network namespaces of workloads: the only place that enters one.
//!
//! A socket belongs for life to the namespace of the thread that made it, so
//! everything here makes sockets and hands them out; nothing ever stays inside.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

/// Number that the kernel gave a network namespace at its birth and gives to
/// no other until the machine restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cookie(pub u64);

/// One network namespace, kept alive as long as a clone of this is.
///
/// Holding it also keeps the workload's veth alive: whoever learns that the
/// workload is gone drops it at once.
#[derive(Clone, Debug)]
pub struct Netns {
    fd: Arc<OwnedFd>,
    cookie: Cookie,
}

impl Netns {
    /// Open the namespace that the file at `path` names, such as
    /// `/run/netns/web` or `/proc/4711/ns/net`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let fd = std::fs::File::open(path)?.into();
        let cookie = within(&fd, || cookie_of(&plain_socket()?))?;
        Ok(Self {
            fd: Arc::new(fd),
            cookie,
        })
    }

    /// Whether the file at `path` still names this namespace.
    pub fn is_at(&self, path: &Path) -> bool {
        // The inode cannot be given to another namespace while we hold this.
        let (Ok(ours), Ok(there)) = (nix::sys::stat::fstat(&self.fd), nix::sys::stat::stat(path))
        else {
            return false;
        };
        (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
    }

    /// Every address that is assigned in the namespace, but for loopback.
    pub fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        within(&self.fd, || {
            let addresses = nix::ifaddrs::getifaddrs()?.filter_map(|interface| {
                let address = interface.address?;
                let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
            });
            Ok(addresses.filter(|address| !address.is_loopback()).collect())
        })
    }

    /// The namespace that this process runs in: the host's.
    pub fn host() -> io::Result<Self> {
        let fd = home()?.try_clone()?;
        let cookie = cookie_of(&plain_socket()?)?;
        Ok(Self {
            fd: Arc::new(fd),
            cookie,
        })
    }

    pub fn cookie(&self) -> Cookie {
        self.cookie
    }

    /// Run `make` with the calling thread inside the namespace, for several
    /// sockets in one round (5 us a round on Linux 6.18).
    pub fn sockets<T>(&self, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        within(&self.fd, make)
    }

    /// A socket for a connection from `source`, any port, not yet connected.
    pub fn stream_from(&self, source: IpAddr) -> io::Result<Socket> {
        self.sockets(|| {
            let socket = stream(domain(source))?;
            // The port is chosen at connect, where the kernel can share it
            // between destinations.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
            Ok(socket)
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A listener on loopback that only the kernel's socket look-up program leads
/// to: its own port is any and means nothing.
///
/// Accepted sockets inherit `SO_LINGER {1, 0}`, so that a daemon that dies
/// resets its applications instead of ending their streams as if complete.
pub fn loopback_listener(family: Family) -> io::Result<Socket> {
    let ip = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    let socket = stream(domain(ip))?;
    // Without this a connection steered to us would make its port look taken
    // to an application that binds it (Linux 6.18: EADDRINUSE).
    socket.set_reuse_address(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.bind(&SocketAddr::new(ip, 0).into())?;
    socket.listen(4096)?;
    Ok(socket)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// A TCP socket that does not block and sends small segments at once, in the
/// namespace of the calling thread.
pub fn stream(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(
        domain,
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

pub fn domain(ip: IpAddr) -> Domain {
    match ip {
        IpAddr::V4(_) => Domain::IPV4,
        IpAddr::V6(_) => Domain::IPV6,
    }
}

/// Sends `packet`, IP header and all, to `to`, from the namespace of the
/// calling thread.
pub fn send_raw(packet: &[u8], to: IpAddr) -> io::Result<()> {
    const IPPROTO_RAW: i32 = 255;
    let kind = Type::from(libc::SOCK_RAW).nonblocking().cloexec();
    let socket = Socket::new(domain(to), kind, Some(Protocol::from(IPPROTO_RAW)))?;
    socket
        .send_to(packet, &SocketAddr::new(to, 0).into())
        .map(drop)
}

fn plain_socket() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::DGRAM.cloexec(), None)
}

#[expect(unsafe_code, reason = "nix has no SO_NETNS_COOKIE")]
fn cookie_of(socket: &Socket) -> io::Result<Cookie> {
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

/// Run `run` with the calling thread inside of a namespace.
pub fn within<T>(fd: impl AsFd, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let home = home()?;
    setns(fd, CloneFlags::CLONE_NEWNET)?;
    let way_back = WayBack(home);
    let made = run();
    drop(way_back);
    made
}

struct WayBack(&'static OwnedFd);

impl Drop for WayBack {
    fn drop(&mut self) {
        if setns(self.0, CloneFlags::CLONE_NEWNET).is_err() {
            // A thread lost in a workload's namespace would open the next
            // workload's sockets there. No state is worth that.
            tracing::error!("cannot return to the host's network namespace: stopping at once");
            std::process::abort();
        }
    }
}
