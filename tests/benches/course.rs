//! The course that is run: two nodes, and for each candidate a pod on either
//! with a client and a server; so that all share nodes, bridges and wire, and
//! whatever else the machine does meets all of them.

use std::any::Any;
use std::net::SocketAddr;
use std::time::Duration;

use mtls_tests::mesh::Ca;
use mtls_tests::process::Process;
use mtls_tests::{Doing, Error, Family, Mesh, Node, Plan, Pod, Result, Scene, two_nodes};

use crate::account::{Account, Cpu};
use crate::candidates::{self, Candidate, Proxies, Sides};
use crate::load::{Measured, Order};

pub(crate) const PORT: u16 = 7000;
/// What addresses of pods may end in, besides those that a course numbers
/// itself: enough for 250 workloads on a node with one candidate.
fn free_numbers() -> impl Iterator<Item = u8> {
    (3..=254).rev().filter(|number| !(10..13).contains(number))
}
/// What a client may take beyond its order.
const GRACE: Duration = Duration::from_secs(60);

pub(crate) struct Course {
    // Dropped in this order: programs before the pods that they are in.
    ways: Vec<Way>,
    pub(crate) mesh: Option<Mesh>,
    pub(crate) a: Node,
    pub(crate) b: Node,
    _scene: Scene,
}

/// A candidate's way from its client to its server.
pub(crate) struct Way {
    pub(crate) candidate: Candidate,
    proxies: Option<Proxies>,
    accounts: Vec<Account>,
    /// What the client dials.
    pub(crate) to: SocketAddr,
    _serving: Box<dyn Any>,
    pub(crate) client: Pod,
    pub(crate) server: Pod,
}

/// Starts the server's program at `PORT`; it runs until it is dropped.
pub(crate) type Server = fn(&Pod) -> Result<Box<dyn Any>>;

type Replan<'a> = Box<dyn FnOnce(Plan, &Pod, &Pod) -> Plan + 'a>;

/// What differs from the usual course.
#[derive(Default)]
pub(crate) struct Change<'a> {
    /// Other pods of the mesh, on either node.
    pub(crate) others: Vec<Pod>,
    /// What else the daemons are told, of our client and our server.
    pub(crate) plan: Option<Replan<'a>>,
}

impl Change<'_> {
    /// That many more pods on each node.
    pub(crate) fn with_others(a: &Node, b: &Node, count: u8) -> Result<Self> {
        let mut others = Vec::new();
        for node in [a, b] {
            for number in free_numbers().take(count.into()) {
                others.push(node.pod_at(&format!("other-{}-{number}", node.name()), number)?);
            }
        }
        Ok(Self { others, plan: None })
    }
}

impl Course {
    pub(crate) fn build(candidates: &[Candidate]) -> Result<Self> {
        Self::build_as(candidates, |_, _| Ok(Change::default()))
    }

    /// `change` sees the two nodes before anything is on them.
    pub(crate) fn build_as<'a>(
        candidates: &[Candidate],
        change: impl FnOnce(&Node, &Node) -> Result<Change<'a>>,
    ) -> Result<Self> {
        Self::build_of(candidates, change, |pod| Ok(Box::new(serve(pod)?)))
    }

    /// With another program at the server than our own load's.
    pub(crate) fn build_with(candidates: &[Candidate], server: Server) -> Result<Self> {
        Self::build_of(candidates, |_, _| Ok(Change::default()), server)
    }

    fn build_of<'a>(
        candidates: &[Candidate],
        change: impl FnOnce(&Node, &Node) -> Result<Change<'a>>,
        serving: Server,
    ) -> Result<Self> {
        let scene = Scene::new("bench")?;
        let (a, b) = two_nodes(&scene)?;
        let change = change(&a, &b)?;
        let mut pods = Vec::new();
        for candidate in candidates {
            pods.push(pair_of_pods(&a, &b, *candidate)?);
        }
        let mesh = candidates
            .iter()
            .position(|candidate| *candidate == Candidate::Ours)
            .map(|ours| start_mesh(&pods[ours], change))
            .transpose()?;
        let ca = Ca::create(scene.dir(), "peers-ca", "peers.test")?;
        let mut ways = Vec::new();
        for (candidate, (client, server)) in candidates.iter().zip(pods) {
            let serving = serving(&server)?;
            ways.push(Way::open(
                *candidate,
                (client, server),
                serving,
                &ca,
                (&a, &b),
            )?);
        }
        Ok(Self {
            ways,
            mesh,
            a,
            b,
            _scene: scene,
        })
    }

    pub(crate) fn candidates(&self) -> Vec<Candidate> {
        self.ways.iter().map(|way| way.candidate).collect()
    }

    pub(crate) fn way(&self, candidate: Candidate) -> Result<&Way> {
        self.ways
            .iter()
            .find(|way| way.candidate == candidate)
            .ok_or_else(|| Error::Unexpected(format!("{} is not here", candidate.name())))
    }

    pub(crate) fn mesh(&mut self) -> Result<&mut Mesh> {
        self.mesh
            .as_mut()
            .ok_or_else(|| Error::Unexpected("no daemons are here".into()))
    }
}

fn pair_of_pods(a: &Node, b: &Node, candidate: Candidate) -> Result<(Pod, Pod)> {
    let name = |side: &str| format!("{}-{side}", candidate.name());
    let pods = if candidate == Candidate::Ours {
        (a.pod(&name("client"))?, b.pod(&name("server"))?)
    } else {
        (a.outsider(&name("client"))?, b.outsider(&name("server"))?)
    };
    for pod in [&pods.0, &pods.1] {
        let netns = pod.netns();
        // A port in TIME_WAIT may be used again after a second; without it the
        // ports, not the way, would limit connections a second.
        netns.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        netns.sysctl("net/ipv4/ip_local_port_range", "16000 65535")?;
    }
    Ok(pods)
}

fn start_mesh(ours: &(Pod, Pod), change: Change<'_>) -> Result<Mesh> {
    let pods = [&ours.0, &ours.1].into_iter().chain(&change.others);
    let mut plan = Plan::of(pods)
        // As the others: a line a connection is for those who want it.
        .set("log", "access", "false");
    if let Some(more) = change.plan {
        plan = more(plan, &ours.0, &ours.1);
    }
    Mesh::start_unwatched(plan)
}

impl Way {
    fn open(
        candidate: Candidate,
        (client, server): (Pod, Pod),
        serving: Box<dyn Any>,
        ca: &Ca,
        nodes: (&Node, &Node),
    ) -> Result<Self> {
        let sides = Sides {
            client: &client,
            server: &server,
            ca,
            port: PORT,
        };
        let proxies = candidates::start(candidate, &sides)?;
        let accounts = match candidate {
            // The daemons' cgroups lie where they attach.
            Candidate::Ours => [nodes.0, nodes.1]
                .map(|node| Account::at(node.cgroup().path().join("daemon")))
                .into(),
            _ => Vec::new(),
        };
        Ok(Self {
            candidate,
            to: proxies
                .as_ref()
                .map_or_else(|| server.at(Family::V4, PORT), |proxies| proxies.entry),
            proxies,
            accounts,
            _serving: serving,
            client,
            server,
        })
    }

    /// Those of its proxies: at the client, at the server; none for plain TCP.
    pub(crate) fn accounts(&self) -> &[Account] {
        match &self.proxies {
            Some(proxies) => &proxies.accounts,
            None => &self.accounts,
        }
    }

    /// Processor time of its proxies, so far.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        self.accounts()
            .iter()
            .try_fold(Cpu::default(), |sum, account| Ok(sum + account.cpu()?))
    }

    /// The client's report on one order, and what that cost the proxies.
    pub(crate) fn measure(&self, order: Order) -> Result<(Measured, Cpu)> {
        let before = self.cpu()?;
        let measured = self.load(order)?;
        Ok((measured, self.cpu()? - before))
    }

    pub(crate) fn load(&self, order: Order) -> Result<Measured> {
        load(&self.client, self.to, order)
            .map_err(|e| Error::Unexpected(format!("{}: {e}", self.candidate.name())))
    }
}

/// A load that runs until it is dropped, or its span is over.
pub(crate) fn beside(client: &Pod, to: SocketAddr, order: Order) -> Result<Process> {
    client
        .spawn(myself()?)?
        .args(["--load", &to.to_string()])
        .args(order.words())
        .start()
}

/// The server's program in a pod, listening.
pub(crate) fn serve(pod: &Pod) -> Result<Process> {
    serve_at(pod, PORT)
}

pub(crate) fn serve_at(pod: &Pod, port: u16) -> Result<Process> {
    let serving = pod
        .spawn(&myself()?)?
        .args(["--serve", &port.to_string()])
        .start()?;
    pod.netns().wait_until_listens(port)?;
    Ok(serving)
}

/// A client's report on one order.
pub(crate) fn load(client: &Pod, to: SocketAddr, order: Order) -> Result<Measured> {
    let said = client
        .spawn(&myself()?)?
        .args(["--load", &to.to_string()])
        .args(order.words())
        .patience(order.span + GRACE)
        .output()?
        .success()?;
    serde_json::from_str(&said).map_err(|e| Error::Unreadable {
        what: format!("the client's report {said:?}"),
        why: e.to_string(),
    })
}

pub(crate) fn myself() -> Result<std::path::PathBuf> {
    std::env::current_exe().doing(|| "finding this program")
}
