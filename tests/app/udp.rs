//! Datagrams: an echo, and a question that waits for its answer.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mtls_tests::script::{Event, UdpHow};
use tokio::net::UdpSocket;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::play::Stage;
use crate::report;

/// Long enough for a busy machine, short enough for a story of refusals.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

pub(crate) async fn echo(listen: Vec<SocketAddr>) -> io::Result<()> {
    let mut listening = Vec::new();
    for address in listen {
        let socket = UdpSocket::bind(address).await?;
        listening.push(socket.local_addr()?);
        spawn_local(async move {
            let mut datagram = [0; 2048];
            // An ICMP error of an earlier answer is reported here: go on.
            loop {
                if let Ok((n, from)) = socket.recv_from(&mut datagram).await {
                    let _ = socket.send_to(&datagram[..n], from).await;
                }
            }
        });
    }
    report::say(&Event::Ready { listening });
    Stage::new(0).input_ended().await;
    Ok(())
}

pub(crate) async fn ask(from: Option<SocketAddr>, to: SocketAddr, how: UdpHow) -> io::Result<()> {
    let any: SocketAddr = if to.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(from.unwrap_or(any)).await?;
    let question = b"is anybody there?";
    match how {
        UdpHow::Connected => {
            socket.connect(to).await?;
            socket.send(question).await?;
        }
        UdpHow::SendTo => {
            socket.send_to(question, to).await?;
        }
    }
    let mut answer = [0; 64];
    match timeout(ANSWER_WITHIN, socket.recv_from(&mut answer)).await {
        Ok(Ok((n, from))) if answer[..n] == *question => {
            report::say(&Event::Datagram { from });
            Ok(())
        }
        Ok(Ok(_)) => Err(io::Error::other("another answer than the question's echo")),
        Ok(Err(e)) => Err(e),
        Err(_) => Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
    }
}
