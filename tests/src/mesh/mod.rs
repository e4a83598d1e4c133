//! A mesh: a plan of pods, an authority, a real daemon on each node, and the
//! wire under watch from before the first daemon starts.

mod ca;
mod config;
mod daemon;
mod http;
mod metrics;

use crate::capture::{Capture, Report};
use crate::error::{Error, Result};
use crate::node::Node;
use crate::pod::Pod;

pub use ca::{Ca, Leaf};
pub use config::Plan;
pub use daemon::{Daemon, Position, workloads};
pub(crate) use http::get;
pub use metrics::Metrics;

/// The daemons of a story.
pub struct Mesh {
    // Dropped in this order: daemons first, so that they say what they saw.
    daemons: Vec<Daemon>,
    wire: Option<Capture>,
    plan: Plan,
    ca: Ca,
}

impl Mesh {
    /// The mesh of these pods with everything at its default, ready.
    pub fn start<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Result<Self> {
        Self::start_as(Plan::of(pods))
    }

    /// The mesh of a plan, ready.
    pub fn start_as(plan: Plan) -> Result<Self> {
        let mut mesh = Self::prepare(plan, Position::default())?;
        mesh.start_all()?;
        Ok(mesh)
    }

    /// The mesh of a plan, ready, with nobody at the wire: to judge every byte
    /// on it takes more time than to carry it, which a benchmark would measure.
    pub fn start_unwatched(plan: Plan) -> Result<Self> {
        let mut mesh = Self::prepare_with(plan, Position::default(), |_| Ok(None))?;
        mesh.start_all()?;
        Ok(mesh)
    }

    /// Everything but the daemons' start.
    pub fn prepare(plan: Plan, position: Position) -> Result<Self> {
        Self::prepare_with(plan, position, |first| first.capture_wire().map(Some))
    }

    fn prepare_with(
        plan: Plan,
        position: Position,
        watch: impl FnOnce(&Node) -> Result<Option<Capture>>,
    ) -> Result<Self> {
        let nodes = plan.nodes();
        let first = nodes
            .first()
            .ok_or_else(|| Error::Unexpected("a mesh without pods".into()))?;
        let ca = Ca::create(first.scene().dir(), "ca", "example.org")?;
        let wire = watch(first)?;
        let mut mesh = Self {
            daemons: Vec::new(),
            wire,
            plan,
            ca,
        };
        for node in &nodes {
            mesh.daemons.push(Daemon::prepare(node, position)?);
        }
        mesh.write_configuration()?;
        Ok(mesh)
    }

    /// Starts all daemons and waits until all are ready.
    pub fn start_all(&mut self) -> Result {
        for daemon in &mut self.daemons {
            daemon.launch()?;
        }
        for daemon in &mut self.daemons {
            daemon.wait_until_ready()?;
        }
        Ok(())
    }

    /// Writes the files of a changed plan; the daemons read them when they
    /// are told to.
    pub fn replan(&mut self, change: impl FnOnce(Plan) -> Plan) -> Result {
        self.plan = change(std::mem::take(&mut self.plan));
        self.write_configuration()
    }

    /// Lets go of a pod, so that it can be deleted; its place in the
    /// configuration stays.
    pub fn forget(&mut self, pod: &Pod) {
        self.plan.forget(pod.name());
    }

    /// The opposite, with a pod that took its place.
    pub fn remember(&mut self, pod: &Pod) {
        self.plan.remember(pod);
    }

    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// The daemon of a node.
    pub fn daemon(&mut self, node: &Node) -> Result<&mut Daemon> {
        self.daemons
            .iter_mut()
            .find(|daemon| daemon.node().name() == node.name())
            .ok_or_else(|| Error::Unexpected(format!("no daemon on node {}", node.name())))
    }

    pub fn daemons(&mut self) -> &mut [Daemon] {
        &mut self.daemons
    }

    /// Stops watching the wire and says what was on it.
    pub fn wire(&mut self) -> Result<Report> {
        self.wire
            .take()
            .ok_or_else(|| Error::Unexpected("nobody watches the wire any more".into()))?
            .finish()
    }

    fn write_configuration(&self) -> Result {
        for daemon in &self.daemons {
            let files = config::Files {
                pins: &daemon.pins(),
                admin: daemon.admin(),
            };
            daemon.configure(&self.plan.toml(daemon.node(), &self.ca, &files))?;
        }
        Ok(())
    }
}
