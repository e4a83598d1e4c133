//! The course that is run: a pair of pods in the mesh and a pair outside of
//! it, on the same two nodes, so that both ways share wire, bridges and load.

use std::net::SocketAddr;
use std::time::Duration;

use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::process::Process;
use mtls_tests::{Doing, Error, Family, Mesh, Plan, Pod, Result, Scene, two_nodes};

use crate::load::{Kind, Measured};

const PORT: u16 = 7000;

pub(crate) struct Course {
    mesh: Mesh,
    inside: Pair,
    outside: Pair,
}

struct Pair {
    client: Pod,
    to: SocketAddr,
    // Dropped in this order.
    _serving: Process,
    _server: Pod,
}

/// One measurement through the daemons, with what it cost them.
pub(crate) struct Sample {
    pub(crate) measured: Measured,
    /// Processor time of both daemons.
    pub(crate) cpu: Duration,
}

impl Course {
    pub(crate) fn build(scene: &Scene) -> Result<Self> {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let mesh = Mesh::start_unwatched(Plan::of([&client, &server]))?;
        Ok(Self {
            inside: Pair::of(client, server)?,
            outside: Pair::of(a.outsider("direct-client")?, b.outsider("direct-server")?)?,
            mesh,
        })
    }

    pub(crate) fn direct(
        &mut self,
        kind: Kind,
        connections: usize,
        seconds: u64,
    ) -> Result<Measured> {
        self.outside.measure(kind, connections, seconds)
    }

    pub(crate) fn mesh(&mut self, kind: Kind, connections: usize, seconds: u64) -> Result<Sample> {
        let before = self.cpu()?;
        let measured = self.inside.measure(kind, connections, seconds)?;
        Ok(Sample {
            measured,
            cpu: self.cpu()?.saturating_sub(before),
        })
    }

    fn cpu(&mut self) -> Result<Duration> {
        self.mesh
            .daemons()
            .iter_mut()
            .map(|daemon| daemon.process()?.cpu())
            .sum()
    }
}

impl Pair {
    fn of(client: Pod, server: Pod) -> Result<Self> {
        for pod in [&client, &server] {
            // A port in TIME_WAIT may be used again after a second; without
            // it the ports, not the path, would limit connections a second.
            pod.netns().sysctl("net/ipv4/tcp_tw_reuse", "1")?;
            pod.netns()
                .sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        }
        let myself = std::env::current_exe().doing(|| "finding this program")?;
        let serving = server
            .spawn(&myself)?
            .args(["--serve", &PORT.to_string()])
            .start()?;
        wait_for(
            Deadline::default(),
            || "the server to listen",
            || Ok(server.netns().listens(PORT)?.then_some(())),
        )?;
        Ok(Self {
            client,
            to: server.at(Family::V4, PORT),
            _serving: serving,
            _server: server,
        })
    }

    fn measure(&self, kind: Kind, connections: usize, seconds: u64) -> Result<Measured> {
        let myself = std::env::current_exe().doing(|| "finding this program")?;
        let words = [
            "--load",
            kind.word(),
            &self.to.to_string(),
            &connections.to_string(),
            &seconds.to_string(),
        ];
        let patience = Duration::from_secs(seconds + 30);
        let said = self
            .client
            .spawn(&myself)?
            .args(words)
            .patience(patience)
            .output()?
            .success()?;
        Measured::parse(&said).ok_or_else(|| Error::Unreadable {
            what: "the client's report".into(),
            why: said,
        })
    }
}
