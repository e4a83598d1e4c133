//! What operators see of a running node, and ask of it: metrics and health by
//! HTTP on an address, everything else by HTTP and JSON on a Unix socket that
//! only root may use. All of it runs on the control thread.

pub mod client;
pub(crate) mod door;
mod observe;
mod operate;
pub mod readiness;
pub mod reply;
#[cfg(test)]
pub(crate) mod samples;
pub(crate) mod socket;
pub mod strict;
mod systemd;
#[cfg(test)]
mod tests;
mod text;
pub mod view;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;

use thiserror::Error;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::spawn_local;

use crate::heartbeat::Heartbeats;
use crate::metrics::Metrics;

use view::NodeView;

/// Why operators cannot be served.
#[derive(Debug, Error)]
pub enum AdminError {
    #[error("metrics.listen: {0} cannot be listened at: {1}")]
    Metrics(SocketAddr, #[source] io::Error),
    #[error("the socket {0}: its folder cannot be made: {1}")]
    Folder(PathBuf, #[source] io::Error),
    #[error("the socket {0}: it cannot be listened at: {1}")]
    Socket(PathBuf, #[source] io::Error),
    #[error(
        "the socket {0}: another daemon answers there: stop it first, or give this one its own socket"
    )]
    Taken(PathBuf),
    #[error("{0} is there and is no socket: take it away, or name another path")]
    NoSocket(PathBuf),
}

/// What the answers are made of.
struct Desk {
    view: Rc<dyn NodeView>,
    metrics: Metrics,
    heartbeats: Heartbeats,
}

/// Listens at the admin socket and at the address of the metrics, and serves
/// both, and systemd if it started us, from tasks of the current `LocalSet`.
pub async fn serve(
    view: Rc<impl NodeView + 'static>,
    metrics: Metrics,
    heartbeats: Heartbeats,
    (socket, listen): (PathBuf, SocketAddr),
) -> Result<(), AdminError> {
    let observers = TcpListener::bind(listen)
        .await
        .map_err(|error| AdminError::Metrics(listen, error))?;
    let (operators, path) = socket::bind(&socket)?;
    let at = observers.local_addr().unwrap_or(listen);
    tracing::info!(metrics = %at, admin = %socket.display(), "listening for operators");

    let desk = Rc::new(Desk {
        view,
        metrics,
        heartbeats,
    });
    let observe = {
        let desk = Rc::clone(&desk);
        move |stream: TcpStream| observe::serve(Rc::clone(&desk), stream)
    };
    spawn_local(door::attend(observers, observe::LIMITS, observe));
    let operate = {
        let desk = Rc::clone(&desk);
        move |stream: UnixStream| operate::serve(Rc::clone(&desk), stream)
    };
    spawn_local(async move {
        // The path goes when the task does.
        let _path = path;
        door::attend(operators, operate::LIMITS, operate).await;
    });
    if let Some(systemd) = systemd::Systemd::from_environment() {
        spawn_local(systemd::tell(systemd, desk));
    }
    Ok(())
}
