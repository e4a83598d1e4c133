//! Who is there: two nodes, a daemon on each, clients on one and servers on
//! the other, and a stranger whom no daemon governs.

use mtls_tests::apps::{Nginx, Postgres, Redis};
use mtls_tests::mesh::{Ca, Position};
use mtls_tests::{Family, Mesh, Node, Plan, Pod, Result, Scene, two_nodes};

use crate::screen::Screen;

pub(crate) const WEB_PORT: u16 = 8080;
pub(crate) const POSTGRES_PORT: u16 = 5432;
pub(crate) const REDIS_PORT: u16 = 6379;

/// A file that nginx serves, and the seed of its bytes.
pub(crate) const FILE: &str = "file";
pub(crate) const FILE_BYTES: usize = 32 << 20;
pub(crate) const FILE_SEED: u64 = 20_117;

/// What may be set up wrongly on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// The second node has another authority of the same name.
    WrongRoot,
}

impl Sabotage {
    pub(crate) fn parse(word: &str) -> Option<Self> {
        (word == "wrong-root").then_some(Self::WrongRoot)
    }
}

pub(crate) struct Stage {
    // Dropped in this order.
    pub(crate) mesh: Mesh,
    pub(crate) nginx: Nginx,
    _postgres: Postgres,
    _redis: Redis,
    pub(crate) a: Node,
    pub(crate) b: Node,
    pub(crate) frontend: Pod,
    pub(crate) jobs: Pod,
    pub(crate) web: Pod,
    pub(crate) store: Pod,
    pub(crate) stranger: Pod,
}

impl Stage {
    pub(crate) fn build(
        scene: &Scene,
        sabotage: Option<Sabotage>,
        change: impl FnOnce(Plan) -> Plan,
        screen: &mut Screen,
    ) -> Result<Self> {
        let (a, b) = two_nodes(scene)?;
        let (frontend, jobs) = (a.pod("frontend")?, a.pod("jobs")?);
        let (web, store) = (b.pod("web")?, b.pod("store")?);
        let stranger = a.outsider("stranger")?;

        screen.heading("Two nodes, joined by one wire; a daemon on each");
        let line = |pod: &Pod, runs: &str| {
            let (v4, v6) = (pod.address(Family::V4), pod.address(Family::V6));
            screen.say(format!(
                "      node {}  {:<9} {v4:<11} {v6:<11} {runs}",
                pod.node().name(),
                pod.name()
            ));
        };
        line(&frontend, "curl");
        line(&jobs, "pgbench, redis-benchmark");
        line(&web, "nginx");
        line(&store, "PostgreSQL, Redis");
        line(&stranger, "curl, outside of the mesh");
        screen.say("");

        let mut plan = change(Plan::of([&frontend, &jobs, &web, &store]));
        if sabotage == Some(Sabotage::WrongRoot) {
            let other = Ca::create(scene.dir(), "other-ca", "example.org")?;
            for (key, file) in [("certificate", &other.certificate), ("key", &other.key)] {
                plan = plan.set_on(
                    &b,
                    "identity.disk-ca",
                    key,
                    &format!("{:?}", file.display().to_string()),
                );
            }
            screen.say("sabotage: node b was given another certificate authority\n");
        }

        let mut mesh = Mesh::prepare(plan, Position::default())?;
        let mut applications = None;
        screen.fact("real servers start", || {
            let nginx = Nginx::start(&web, WEB_PORT)?;
            nginx.put(FILE, FILE_BYTES, FILE_SEED)?;
            applications = Some((
                nginx,
                Postgres::start(&store, POSTGRES_PORT)?,
                Redis::start(&store, REDIS_PORT)?,
            ));
            Ok("nginx, PostgreSQL, Redis; the wire is being captured".into())
        })?;
        screen.fact("daemons start", || {
            mesh.start_all()?;
            Ok("kernel programs attached, every workload has its certificate".into())
        })?;
        let Some((nginx, postgres, redis)) = applications else {
            unreachable!("a fact that held has run")
        };
        Ok(Self {
            mesh,
            nginx,
            _postgres: postgres,
            _redis: redis,
            a,
            b,
            frontend,
            jobs,
            web,
            store,
            stranger,
        })
    }
}
