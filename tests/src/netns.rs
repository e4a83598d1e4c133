//! Network namespaces, each named by a file of the run's folder.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::deadline::{Deadline, wait_for};
use crate::error::{Doing, Error, Result};
use crate::programs;

/// A network namespace with its loopback up. It goes with the last clone,
/// unless a process in it, or an open descriptor of it, holds it.
#[derive(Clone, Debug)]
pub struct Netns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    fd: OwnedFd,
}

impl Netns {
    /// Makes a namespace named by the new file `path`.
    pub fn create(path: &Path) -> Result<Self> {
        File::create_new(path).doing(|| format!("making {}", path.display()))?;
        let fd = on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let own = Path::new("/proc/thread-self/ns/net");
            mount(
                Some(own),
                path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )?;
            Ok(OwnedFd::from(File::open(own)?))
        });
        let fd = match fd {
            Ok(fd) => fd,
            Err(e) => {
                let _ = fs::remove_file(path);
                return Err::<Self, io::Error>(e).doing(|| "making a network namespace");
            }
        };
        let netns = Self(Arc::new(Inner {
            path: path.to_owned(),
            fd,
        }));
        // Duplicate address detection holds an address back for a second, and
        // nobody else is on these links.
        for (key, value) in [
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/default/router_solicitations", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
        ] {
            netns.sysctl(key, value)?;
        }
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The file that names it, as a daemon's configuration does.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Runs `work` on a thread inside of the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_own_thread(|| {
            setns(self.fd(), CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })
        .doing(|| format!("entering {}", self.0.path.display()))
    }

    /// Takes its name away. What runs in it goes on, and so do we.
    pub fn unname(&self) -> Result {
        umount2(self.path(), MntFlags::MNT_DETACH)
            .doing(|| format!("unmounting {}", self.path().display()))?;
        fs::remove_file(self.path()).doing(|| format!("removing {}", self.path().display()))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }

    /// Runs `ip` commands, one a line. (`ip netns exec` would remount /sys,
    /// under which the cgroups lie.)
    pub fn ip(&self, batch: &str) -> Result {
        let program = programs::need("ip")?;
        let output = self
            .run(|| -> io::Result<_> {
                let mut ip = Command::new(program)
                    .args(["-batch", "-"])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()?;
                if let Some(mut stdin) = ip.stdin.take() {
                    stdin.write_all(batch.as_bytes())?;
                }
                ip.wait_with_output()
            })?
            .doing(|| "running ip")?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Command {
            command: format!("ip -batch, in {}:\n{batch}", self.0.path.display()),
            status: output.status.to_string(),
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Sets a value below /proc/sys, which shows the thread's own namespace.
    pub fn sysctl(&self, key: &str, value: &str) -> Result {
        let path = Path::new("/proc/sys").join(key);
        self.run(|| fs::write(&path, value))?
            .doing(|| format!("writing {value} to {}", path.display()))
    }

    /// The number by which the kernel's hooks know it.
    pub fn cookie(&self) -> Result<u64> {
        self.run(netns_cookie)?
            .doing(|| format!("asking for the cookie of {}", self.0.path.display()))
    }

    /// Whether some program listens on the TCP port, whatever the address.
    pub fn listens(&self, port: u16) -> Result<bool> {
        Ok(self.sockets()?.iter().any(|s| s.listens && s.port == port))
    }

    /// Waits until a program that cannot tell us listens on the TCP port.
    pub fn wait_until_listens(&self, port: u16) -> Result {
        wait_for(
            Deadline::default(),
            || format!("a listener on port {port} in {}", self.0.path.display()),
            || Ok(self.listens(port)?.then_some(())),
        )
    }

    /// TCP sockets, except those in TIME_WAIT.
    pub fn sockets(&self) -> Result<Vec<Socket>> {
        let tables = self
            .run(|| -> io::Result<_> {
                Ok([
                    fs::read_to_string("/proc/thread-self/net/tcp")?,
                    fs::read_to_string("/proc/thread-self/net/tcp6")?,
                ])
            })?
            .doing(|| "reading the socket tables")?;
        Ok(tables
            .iter()
            .flat_map(|table| table.lines().skip(1))
            .filter_map(Socket::parse)
            .collect())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What stays is swept by the next run and seen by the leftovers check.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.path);
    }
}

/// A line of a namespace's TCP socket table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    pub local: IpAddr,
    pub port: u16,
    pub listens: bool,
    /// It has ended its half, and the other end has all of it.
    pub said_all: bool,
}

impl Socket {
    /// `sl local_address rem_address st ...`, addresses in words of host order.
    fn parse(line: &str) -> Option<Self> {
        const FIN_WAIT_2: u8 = 5;
        const TIME_WAIT: u8 = 6;
        const LISTEN: u8 = 10;
        let mut fields = line.split_whitespace().skip(1);
        let (address, port) = fields.next()?.split_once(':')?;
        let state = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
        let mut octets = Vec::with_capacity(16);
        for word in address.as_bytes().chunks(8) {
            let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
            octets.extend(word.to_ne_bytes());
        }
        let local = match octets.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
            _ => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
        };
        (state != TIME_WAIT).then_some(Self {
            local,
            port: u16::from_str_radix(port, 16).ok()?,
            listens: state == LISTEN,
            said_all: state == FIN_WAIT_2,
        })
    }
}

/// Namespaces belong to threads; a thread of its own can be thrown away.
fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[expect(
    unsafe_code,
    reason = "neither libc's wrappers nor nix know SO_NETNS_COOKIE"
)]
fn netns_cookie() -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    let mut cookie = 0_u64;
    let mut len = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(8);
    // SAFETY: the kernel writes at most `len` bytes, which is the size of `cookie`.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if done == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_socket_tables() {
        let v4 = "   0: 0200010A:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1";
        assert_eq!(
            Socket::parse(v4),
            Some(Socket {
                local: "10.1.0.2".parse().unwrap(),
                port: 8080,
                listens: true,
                said_all: false,
            })
        );
        let v6 = "   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 01 0 0 0";
        let parsed = Socket::parse(v6).unwrap();
        assert_eq!(parsed.local, "::1".parse::<IpAddr>().unwrap());
        assert!(!parsed.listens);
        assert_eq!(Socket::parse("0: 0100007F:0050 0100007F:0051 06 0"), None);
        assert_eq!(Socket::parse("nonsense"), None);
    }
}
