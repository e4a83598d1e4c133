//! The client is killed in the middle of an upload, the server in the middle
//! of a download: the other side is told by a reset, and nothing stays open.

use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Pair, Result, ensure_eq, play};

#[test]
fn client_gone() -> Result {
    play("client-gone", |scene| {
        let mut pair = Pair::start(scene)?;
        let mut server = pair.server.serve(
            8080,
            [
                Step::Receive {
                    bytes: 4 << 20,
                    seed: 1,
                },
                Step::Say("enough".into()),
                Step::ReceiveToEnd { seed: 1 },
            ],
        )?;
        for family in Family::BOTH {
            let upload = [
                Step::Send {
                    bytes: 4 << 20,
                    seed: 1,
                },
                Step::Hear("enough".into()),
                Step::Hold,
            ];
            let task = Connect::to(pair.server.at(family, 8080), upload);
            let mut client = pair.client.connect_as(task)?;
            client.held()?;
            // With linger off, the kernel of a killed process sends a FIN; unread
            // bytes would make it a RST. Either way the server must see its end.
            client.process().kill()?;
            let seen = server.ended()?;
            ensure_eq(seen.received, 4 << 20, "bytes that arrived")?;
            ensure_eq(seen.corrupt_at, None, "corrupt bytes")?;
        }

        let _endless = pair.server.serve(8081, [Step::SendForEver { seed: 2 }])?;
        for family in Family::BOTH {
            let download = [
                Step::Receive {
                    bytes: 4 << 20,
                    seed: 2,
                },
                Step::Hold,
                Step::ReceiveToEnd { seed: 2 },
            ];
            let task = Connect::to(pair.server.at(family, 8081), download);
            let mut client = pair.client.connect_as(task)?;
            client.held()?;
            client.process().kill()?;
        }
        for daemon in pair.mesh.daemons() {
            daemon.wait_for_metrics("no open connection", |metrics| {
                metrics.sum("mtls_connections_open", &[]) == 0.0
            })?;
        }
        pair.ensure_private().map(drop)
    })
}
