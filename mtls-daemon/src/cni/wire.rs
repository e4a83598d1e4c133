//! Between the plug-in and the daemon: one question, with the network
//! namespace as a descriptor beside it, and one answer, each in JSON up to the
//! end of its direction.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, Shutdown};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;

use super::Pod;
use super::spec::Failure;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "question", rename_all = "snake_case")]
pub(super) enum Question {
    /// Its network namespace comes with it.
    Add(Arrival),
    Check(Arrival),
    Del {
        container: String,
    },
    Gc {
        valid: Vec<String>,
    },
    Status,
}

/// What a pod runs in before it runs.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Arrival {
    pub(super) container: String,
    pub(super) pod: Pod,
    pub(super) addresses: Vec<IpAddr>,
}

pub(super) type Answer = Result<(), Failure>;

/// Nothing that is asked or answered is longer.
const LONGEST: usize = 256 * 1024;

/// The plug-in's side.
pub(super) fn ask(
    mut daemon: &UnixStream,
    question: &Question,
    netns: Option<BorrowedFd<'_>>,
) -> io::Result<Answer> {
    let text = serde_json::to_vec(question)?;
    let descriptors: Vec<RawFd> = netns.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let rights = match netns {
        Some(_) => &rights[..],
        None => &[],
    };
    let slice = [IoSlice::new(&text)];
    let fd = daemon.as_raw_fd();
    let sent = sendmsg::<UnixAddr>(fd, &slice, rights, MsgFlags::MSG_NOSIGNAL, None)?;
    daemon.write_all(&text[sent..])?;
    daemon.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    daemon.take(LONGEST as u64).read_to_end(&mut answer)?;
    Ok(serde_json::from_slice(&answer)?)
}

/// The daemon's.
pub(super) async fn hear(
    plugin: &tokio::net::UnixStream,
) -> io::Result<(Question, Option<OwnedFd>)> {
    let (mut text, mut netns) = (Vec::new(), None);
    loop {
        let receive = || receive(plugin.as_fd(), &mut text, &mut netns);
        if plugin.async_io(Interest::READABLE, receive).await? == 0 {
            return Ok((serde_json::from_slice(&text)?, netns));
        }
        if text.len() > LONGEST {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it does not end",
            ));
        }
    }
}

fn receive(
    from: BorrowedFd<'_>,
    text: &mut Vec<u8>,
    netns: &mut Option<OwnedFd>,
) -> io::Result<usize> {
    let mut buffer = [0; 4096];
    // More descriptors than one are the sender's to lose: the kernel closes
    // what has no room.
    let mut rights = nix::cmsg_space!(RawFd);
    let bytes = {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<UnixAddr>(from.as_raw_fd(), &mut slices, Some(&mut rights), flags)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                for descriptor in descriptors {
                    *netns = Some(owned(descriptor));
                }
            }
        }
        message.bytes
    };
    text.extend_from_slice(&buffer[..bytes]);
    Ok(bytes)
}

#[expect(unsafe_code, reason = "nix gives received descriptors as bare numbers")]
fn owned(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made it for us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
