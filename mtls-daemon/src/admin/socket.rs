//! A socket's place in the file system, for root alone.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use super::AdminError;

/// Takes the socket's file away when the daemon ends, if it is still ours.
pub(crate) struct SocketPath {
    path: PathBuf,
    inode: Option<u64>,
}

pub(crate) fn bind(path: &Path) -> Result<(UnixListener, SocketPath), AdminError> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| AdminError::Folder(path.to_owned(), error))?;
    }
    remove_stale(path)?;
    let listener = listen(path).map_err(|error| AdminError::Socket(path.to_owned(), error))?;
    let inode = fs::symlink_metadata(path).ok().map(|found| found.ino());
    let path = SocketPath {
        path: path.to_owned(),
        inode,
    };
    Ok((listener, path))
}

/// A daemon that was killed leaves its socket behind; one that answers is alive.
fn remove_stale(path: &Path) -> Result<(), AdminError> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(AdminError::NoSocket(path.to_owned()));
    }
    match StdUnixStream::connect(path) {
        Ok(_) => Err(AdminError::Taken(path.to_owned())),
        Err(_) => fs::remove_file(path).map_err(|error| AdminError::Socket(path.to_owned(), error)),
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // bind() gives the file the mode of the unbound socket, so there is no
    // moment at which others could connect (net/unix/af_unix.c, unix_bind_bsd).
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(64)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(OwnedFd::from(socket).into())
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let now = fs::symlink_metadata(&self.path)
            .ok()
            .map(|found| found.ino());
        // A successor may have put its own there.
        if now.is_some() && now == self.inode {
            let _ = fs::remove_file(&self.path);
        }
    }
}
