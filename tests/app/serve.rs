//! A server: the script on every connection.

use std::io;
use std::rc::Rc;

use mtls_tests::script::{Ended, Event, Serve, Step};
use tokio::net::TcpListener;
use tokio::task::spawn_local;

use crate::play::{Stage, play};
use crate::{report, sockets};

pub(crate) async fn run(task: Serve) -> io::Result<()> {
    let stage = Stage::new(0);
    let script: Rc<[Step]> = task.script.into();
    let mut listening = Vec::new();
    for address in task.listen {
        let listener = sockets::listen(address, task.socket)?;
        listening.push(listener.local_addr()?);
        spawn_local(accept(listener, Rc::clone(&script), stage.clone()));
    }
    report::say(&Event::Ready { listening });
    stage.input_ended().await;
    Ok(())
}

async fn accept(listener: TcpListener, script: Rc<[Step]>, stage: Stage) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            // A client that is gone again is no fault of the listener's.
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(e) => {
                return report::say(&Event::Failed {
                    what: "accept".into(),
                    error: report::error_name(&e),
                });
            }
        };
        let (script, stage) = (Rc::clone(&script), stage.clone());
        spawn_local(async move {
            let mut ended = Ended {
                local: stream.local_addr().ok(),
                peer: Some(peer),
                ..Ended::default()
            };
            play(stream, &script, &stage, &mut ended).await;
            report::say(&Event::Ended(ended));
        });
    }
}
