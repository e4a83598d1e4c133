//! Readers that read nothing stop their own senders and nobody else, however
//! many they are and whichever end they are at, and cost the daemons no more
//! memory than the configuration allows.

use mtls_tests::player::{Client, Server};
use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Pair, Result, Scene, ensure, play};

const MIB: u64 = 1 << 20;
/// `limits.buffer_per_workload`, how far the windows of a tunnel may grow.
const BUFFER: u64 = 8 * MIB;
/// Each stream's window before it grows, in a buffer that doubles to hold it.
const WINDOW: u64 = 128 << 10;
/// What the daemons' allocator keeps of the exchanges beside.
const SLACK: u64 = 12 * MIB;

#[test]
fn slow_readers() -> Result {
    play("slow-readers", |scene| {
        let mut stage = Stage::start(scene)?;
        for (stalled, family) in [
            (1, Family::V4),
            (4, Family::V6),
            (64, Family::V4),
            (200, Family::V6),
        ] {
            stage.clients_stop(stalled, family)?;
            stage.servers_stop(stalled, family)?;
        }
        stage.pair.ensure_private().map(drop)
    })
}

struct Stage {
    pair: Pair,
    _endless: Server,
    _deaf: Server,
    echo: Server,
}

impl Stage {
    fn start(scene: &Scene) -> Result<Self> {
        let pair = Pair::start_as(scene, |plan, _, _| {
            plan.set("limits", "buffer_per_workload", "\"8MiB\"")
        })?;
        let heard = [
            Step::Receive {
                bytes: 1000,
                seed: 2,
            },
            Step::Say("go on".into()),
            Step::Hold,
        ];
        let mut stage = Self {
            _endless: pair.server.serve(8081, [Step::SendForEver { seed: 1 }])?,
            _deaf: pair.server.serve(8082, heard)?,
            echo: pair.server.serve(8080, [Step::Echo])?,
            pair,
        };
        // What grows once, grows here.
        for family in Family::BOTH {
            stage.talk_beside(4, family)?;
        }
        Ok(stage)
    }

    /// Clients that have heard a little, so that their flow stands, and then
    /// read no more: bytes pile up at the client's node.
    fn clients_stop(&mut self, stalled: usize, family: Family) -> Result {
        let script = [
            Step::Receive {
                bytes: 1000,
                seed: 1,
            },
            Step::Hold,
        ];
        self.stopped(stalled, family, 8081, script.into(), |client| {
            client.held().map(drop)
        })
    }

    /// Servers that have heard a little, and whose clients send on: bytes
    /// pile up at the server's node.
    fn servers_stop(&mut self, stalled: usize, family: Family) -> Result {
        let script = [
            Step::Send {
                bytes: 1000,
                seed: 2,
            },
            Step::Hear("go on".into()),
            Step::Hold,
            Step::SendForEver { seed: 1 },
        ];
        self.stopped(stalled, family, 8082, script.into(), |client| {
            client.held()?;
            client.go()
        })
    }

    fn stopped(
        &mut self,
        stalled: usize,
        family: Family,
        port: u16,
        script: Vec<Step>,
        begin: impl FnOnce(&mut Client) -> Result,
    ) -> Result {
        let before = self.memory()?;
        let to = self.pair.server.at(family, port);
        let task = Connect::to(to, script).many(stalled, stalled);
        let mut client = self.pair.client.connect_as(task)?;
        begin(&mut client)?;
        self.talk_beside(8, family)?;
        let most = BUFFER + stalled as u64 * WINDOW + SLACK;
        for (before, after) in before.into_iter().zip(self.memory()?) {
            ensure(after < before + most, || {
                format!(
                    "memory for {stalled} readers that stopped: {before} before, {after} now, \
                     and at most {most} more is allowed"
                )
            })?;
        }
        client.process().kill()
    }

    /// A megabyte each way, so many times, in the tunnel of the readers that
    /// stopped. If it stalled, it would not come back within the deadline.
    fn talk_beside(&mut self, times: usize, family: Family) -> Result {
        let talk = [Step::Exchange {
            bytes: MIB,
            send: 2,
            receive: 2,
        }];
        let to = self.pair.server.at(family, 8080);
        for _ in 0..times {
            let ended = self.pair.client.connect(to, talk.clone())?;
            ensure(ended.is_well(), || {
                format!("beside slow readers: {ended:?}")
            })?;
            self.echo.ended_well(1)?;
        }
        Ok(())
    }

    fn memory(&mut self) -> Result<Vec<u64>> {
        let daemons = self.pair.mesh.daemons().iter_mut();
        daemons.map(|daemon| daemon.process()?.resident()).collect()
    }
}
