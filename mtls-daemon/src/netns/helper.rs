//! The small process that enters the workloads' network namespaces.
//!
//! Entering one needs CAP_SYS_ADMIN, finding that of a process CAP_SYS_PTRACE,
//! and who has either has the node. So the process that reads what strangers
//! send has neither: it asks this one, which reads nothing but the few bytes
//! below, from its parent alone, and answers with descriptors.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    recvmsg, sendmsg, socketpair,
};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};

use super::Kind;
use crate::memory;
use crate::rights::{self, Caller};

/// Everything that needs those two rights.
#[derive(Clone, Copy)]
pub(super) enum Ask<'a> {
    /// Opens the namespace that a file names.
    Open(&'a Path),
    /// Which file a path leads to.
    Look(&'a Path),
    /// Makes so many sockets in a namespace.
    Sockets(BorrowedFd<'a>, Kind, u8),
}

#[derive(Default)]
pub(super) struct Answer {
    pub(super) file: FileId,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// No two files have the same, while they are held open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileId {
    pub device: u64,
    pub inode: u64,
}

impl FileId {
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let about = std::fs::metadata(path)?;
        Ok(Self {
            device: about.dev(),
            inode: about.ino(),
        })
    }
}

/// What one message can carry, with room for a path.
const LONGEST: usize = 4096 + 2;
pub(super) const MOST_SOCKETS: u8 = 16;
/// In milliseconds. After so long without a question, what the daemon has read
/// before the split and what the last questions needed is given back.
const IDLE: u16 = 10_000;
/// An error number, a device and an inode.
const ANSWER: usize = 4 + 8 + 8;

static HELPER: OnceLock<Mutex<OwnedFd>> = OnceLock::new();

/// Splits the helper off. To be called while the process has one thread, which
/// is what makes `fork` sound.
pub fn start() -> io::Result<Pid> {
    super::home()?;
    let kind = SockType::SeqPacket;
    let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?;
    let parent = getpid();
    if !rights::is_single_threaded()? {
        return Err(io::Error::other(
            "the helper is split off before any thread",
        ));
    }
    #[expect(unsafe_code, reason = "a process that shares nothing with this one")]
    // SAFETY: there is one thread, so that no lock is held in the child that
    // nobody in it would give back.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            HELPER
                .set(Mutex::new(ours))
                .map_err(|_second| io::Error::other("the helper runs already"))?;
            Ok(child)
        }
        ForkResult::Child => {
            drop(ours);
            let code = match serve(&theirs, parent) {
                Ok(()) => 0,
                Err(error) => {
                    // The log is the daemon's.
                    let _ = writeln!(
                        io::stderr(),
                        "the helper that enters network namespaces: {error}"
                    );
                    1
                }
            };
            #[expect(unsafe_code, reason = "nix has no _exit")]
            // SAFETY: it ends this process, and runs nothing of the parent's.
            unsafe {
                libc::_exit(code)
            }
        }
    }
}

/// By the helper, or in this thread where there is none: in a test, or before
/// the daemon runs.
pub(super) fn ask(what: Ask<'_>) -> io::Result<Answer> {
    let Some(helper) = HELPER.get() else {
        return answer(what);
    };
    // One at a time; who panicked meanwhile left no half of a message.
    let socket = helper
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut bytes = Vec::new();
    let mut enclosed = Vec::new();
    match what {
        Ask::Open(path) => {
            bytes.extend([0, 0]);
            bytes.extend(path.as_os_str().as_bytes());
        }
        Ask::Look(path) => {
            bytes.extend([1, 0]);
            bytes.extend(path.as_os_str().as_bytes());
        }
        Ask::Sockets(netns, kind, count) => {
            bytes.extend([2 + kind as u8, count]);
            enclosed.push(netns.as_raw_fd());
        }
    }
    if bytes.len() > LONGEST {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    send(&socket, &bytes, &enclosed)?;
    let mut reply = [0; ANSWER];
    let (length, descriptors) = receive(&socket, &mut reply)?;
    drop(socket);
    if length != ANSWER {
        return Err(io::Error::new(
            io::ErrorKind::BrokenPipe,
            "the helper that enters network namespaces has ended",
        ));
    }
    let (error, file) = reply.split_at(4);
    let (device, inode) = file.split_at(8);
    let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or_default();
    match error.try_into().map(i32::from_le_bytes).unwrap_or_default() {
        // The kernel leaves out what this process has no room for.
        0 if descriptors.is_empty() && !matches!(what, Ask::Look(_)) => {
            Err(io::Error::from_raw_os_error(libc::EMFILE))
        }
        0 => Ok(Answer {
            file: FileId {
                device: number(device),
                inode: number(inode),
            },
            descriptors,
        }),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Until the daemon is gone.
fn serve(daemon: &OwnedFd, parent: Pid) -> io::Result<()> {
    prctl::set_name(c"mtls-netns")?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    prctl::set_dumpable(false)?;
    if getppid() != parent {
        return Ok(());
    }
    // What ends the daemon ends this; a drain still needs it.
    for one in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        #[expect(unsafe_code, reason = "for handlers of one's own")]
        // SAFETY: there is no handler.
        unsafe { signal(one, SigHandler::SigIgn) }?;
    }
    rights::keep(&rights::OF_THE_HELPER)?;
    rights::refuse_calls(Caller::Helper)?;
    let mut request = [0; LONGEST];
    loop {
        if !is_asked(daemon, IDLE.into())? {
            memory::give_back();
        }
        let (length, enclosed) = receive(daemon, &mut request)?;
        let Some(request) = request.get(..length).filter(|request| !request.is_empty()) else {
            return Ok(());
        };
        let answered = read(request, &enclosed)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
            .and_then(answer);
        let (error, made) = match answered {
            Ok(made) => (0, made),
            Err(error) => {
                let error = error.raw_os_error().unwrap_or(libc::EIO);
                (error, Answer::default())
            }
        };
        let mut bytes = Vec::with_capacity(ANSWER);
        bytes.extend(error.to_le_bytes());
        bytes.extend(made.file.device.to_le_bytes());
        bytes.extend(made.file.inode.to_le_bytes());
        let descriptors: Vec<RawFd> = made.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        send(daemon, &bytes, &descriptors)?;
    }
}

fn is_asked(socket: &OwnedFd, within: PollTimeout) -> io::Result<bool> {
    let mut wait = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    match poll(&mut wait, within) {
        Err(nix::Error::EINTR) => Ok(true),
        ready => Ok(ready? > 0),
    }
}

fn read<'a>(request: &'a [u8], enclosed: &'a [OwnedFd]) -> Option<Ask<'a>> {
    let (&[what, count], rest) = request.split_first_chunk::<2>()?;
    let path = Path::new(std::ffi::OsStr::from_bytes(rest));
    match (what, enclosed) {
        (0, []) => Some(Ask::Open(path)),
        (1, []) => Some(Ask::Look(path)),
        (kind, [netns]) => {
            let kind = Kind::ALL.get(usize::from(kind.checked_sub(2)?))?;
            let count = Some(count).filter(|count| *count <= MOST_SOCKETS)?;
            Some(Ask::Sockets(netns.as_fd(), *kind, count))
        }
        _ => None,
    }
}

fn answer(what: Ask<'_>) -> io::Result<Answer> {
    match what {
        Ask::Open(path) => {
            // A pipe at that place would wait for a writer.
            let mut options = File::options();
            let file = options
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(path)?;
            // Entered once: it is a network namespace, or it goes nowhere.
            within(&file, || Ok(()))?;
            Ok(Answer {
                descriptors: vec![file.into()],
                ..Answer::default()
            })
        }
        Ask::Look(path) => Ok(Answer {
            file: FileId::at(path)?,
            ..Answer::default()
        }),
        Ask::Sockets(netns, kind, count) => Ok(Answer {
            descriptors: within(netns, || (0..count).map(|_| kind.make()).collect())?,
            ..Answer::default()
        }),
    }
}

/// Runs `run` with the calling thread inside of a namespace.
fn within<T>(netns: impl AsFd, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let home = super::home()?;
    setns(netns, CloneFlags::CLONE_NEWNET)?;
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
            let what = "cannot return to the host's network namespace: stopping at once";
            let _ = writeln!(io::stderr(), "{what}");
            std::process::abort();
        }
    }
}

fn send(socket: &OwnedFd, bytes: &[u8], enclosed: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(enclosed)];
    let rights = if enclosed.is_empty() {
        &[][..]
    } else {
        &rights
    };
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        rights,
        flags,
        None,
    )?;
    Ok(())
}

/// How many bytes came, none at the end, and what was enclosed.
fn receive(socket: &OwnedFd, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut room = nix::cmsg_space!([RawFd; MOST_SOCKETS as usize]);
    let mut slices = [IoSliceMut::new(bytes)];
    let received = loop {
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut slices, Some(&mut room), flags) {
            Err(nix::Error::EINTR) => {}
            received => break received?,
        }
    };
    let mut enclosed = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = message {
            #[expect(unsafe_code, reason = "nix hands out numbers")]
            // SAFETY: the kernel has just opened them for us, and nobody else
            // knows them.
            enclosed.extend(
                descriptors
                    .into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    Ok((received.bytes, enclosed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answers(bytes: &[u8], enclosed: usize) -> bool {
        let here = || OwnedFd::from(File::open("/proc/self/ns/net").unwrap());
        let enclosed: Vec<OwnedFd> = (0..enclosed).map(|_| here()).collect();
        read(bytes, &enclosed).is_some()
    }

    #[test]
    fn only_what_is_whole_is_answered() {
        assert!(answers(b"\0\0/run/netns/web", 0));
        assert!(answers(b"\x01\0/proc/1/ns/net", 0));
        assert!(answers(&[2, 1], 1));
        assert!(answers(&[7, MOST_SOCKETS], 1));
        for (bytes, enclosed) in [
            (&[0][..], 0),
            // A path, and a namespace that nobody asked about.
            (b"\0\0/run/netns/web", 1),
            // No namespace, or two.
            (&[2, 1], 0),
            (&[2, 1], 2),
            // More than a message can carry, and no such socket.
            (&[2, MOST_SOCKETS + 1], 1),
            (&[8, 1], 1),
        ] {
            assert!(!answers(bytes, enclosed), "{bytes:?} with {enclosed}");
        }
    }

    #[test]
    fn a_file_that_is_no_namespace_is_not_handed_out() {
        for path in ["/etc/hostname", "/proc/self/ns/uts", "/nowhere"] {
            assert!(answer(Ask::Open(Path::new(path))).is_err(), "{path}");
        }
        let opened = answer(Ask::Open(Path::new("/proc/self/ns/net"))).unwrap();
        assert_eq!(opened.descriptors.len(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>, enclosed in 0..3_usize) {
            answers(&bytes, enclosed);
        }
    }
}
