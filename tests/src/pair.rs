//! The usual cast: a client on one node, a server on the other, both in the
//! mesh, and the wire between them under watch.

use crate::address_checks::AddressChecks;
use crate::capture::Report;
use crate::error::{Result, ensure};
use crate::mesh::{Daemon, Mesh, Plan, Position};
use crate::node::{Family, Node, two_nodes};
use crate::pod::Pod;
use crate::scene::Scene;
use crate::script::Step;

/// Every `script::pattern` begins with it.
const MARK: &[u8] = b"mtls-tests-plaintext-";

/// A client and a server in a running mesh.
pub struct Pair {
    // Dropped first: daemons before what they govern.
    pub mesh: Mesh,
    pub client: Pod,
    pub server: Pod,
    pub a: Node,
    pub b: Node,
}

impl Pair {
    /// With everything at its default.
    pub fn start(scene: &Scene) -> Result<Self> {
        Self::start_as(scene, |plan, _, _| plan)
    }

    /// With what the story does to the mesh before its daemons start; `a` is
    /// the client's node.
    pub fn start_after(
        scene: &Scene,
        prepare: impl FnOnce(&mut Mesh, &Node) -> Result,
    ) -> Result<Self> {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let mut mesh = Mesh::prepare(Plan::of([&client, &server]), Position::default())?;
        prepare(&mut mesh, &a)?;
        mesh.start_all()?;
        Ok(Self {
            mesh,
            client,
            server,
            a,
            b,
        })
    }

    /// With what the story changes in the plan of its client and server.
    pub fn start_as(scene: &Scene, change: impl FnOnce(Plan, &Pod, &Pod) -> Plan) -> Result<Self> {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let plan = change(Plan::of([&client, &server]), &client, &server);
        Ok(Self {
            mesh: Mesh::start_as(plan)?,
            client,
            server,
            a,
            b,
        })
    }

    /// The daemon of the client's node.
    pub fn clients_daemon(&mut self) -> Result<&mut Daemon> {
        self.mesh.daemon(&self.a)
    }

    /// The daemon of the server's node.
    pub fn servers_daemon(&mut self) -> Result<&mut Daemon> {
        self.mesh.daemon(&self.b)
    }

    /// In both pods and on both nodes.
    pub fn check_addresses(&self, checks: AddressChecks) -> Result {
        let pods = [&self.client, &self.server].map(Pod::netns);
        let nodes = [&self.a, &self.b].map(Node::netns);
        checks.set(pods.into_iter().chain(nodes))
    }

    /// Says something to whoever echoes at a port of the server, over both
    /// families.
    pub fn greet(&self, port: u16) -> Result {
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        for family in Family::BOTH {
            let ended = self
                .client
                .connect(self.server.at(family, port), hello.clone())?;
            ensure(ended.is_well(), || format!("{family:?}: {ended:?}"))?;
        }
        Ok(())
    }

    /// Ends the watch: there was traffic, and all of it inside of TLS 1.3.
    pub fn ensure_private(&mut self) -> Result<Report> {
        let report = self.mesh.wire()?;
        report.ensure_only_tls()?;
        report.ensure_absent(&[MARK])?;
        Ok(report)
    }

    /// Ends the watch: whatever there was, none of it was in clear.
    pub fn ensure_nothing_in_clear(&mut self) -> Result<Report> {
        let report = self.mesh.wire()?;
        report.ensure_nothing_in_clear()?;
        report.ensure_absent(&[MARK])?;
        Ok(report)
    }
}
