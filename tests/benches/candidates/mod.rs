//! Who is measured: plain TCP, ourselves, and the others that give mutual TLS
//! between two nodes. The others run in the pods themselves, where our daemon's
//! sockets are, too; so all have the same hops: the pod's loopback, the way
//! between the pods, the other loopback. None of them takes connections over
//! by itself: their clients dial the proxy's port on loopback.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use mtls_tests::mesh::{Ca, Leaf};
use mtls_tests::process::{Process, Spawn};
use mtls_tests::{Doing, Error, Family, Pod, Result};

use crate::account::Account;

/// Where a proxy at the client takes connections, on the pod's loopback.
const ENTRY: u16 = 15001;
/// Where the proxy at the server takes those of the proxy at the client.
const BETWEEN: u16 = 15443;
/// What the certificates of these proxies say.
const SERVER_NAME: &str = "server.peers.test";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Candidate {
    Direct,
    Chain,
    Ours,
    Envoy,
    Nginx,
    Haproxy,
    Stunnel,
}

impl Candidate {
    pub(crate) const ALL: [Self; 7] = [
        Self::Direct,
        Self::Chain,
        Self::Ours,
        Self::Envoy,
        Self::Nginx,
        Self::Haproxy,
        Self::Stunnel,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Chain => "chain",
            Self::Ours => "ours",
            Self::Envoy => "envoy",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Stunnel => "stunnel",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == word)
    }

    /// True if each connection costs its proxies a descriptor at both sides:
    /// fewer of them can be held idle.
    pub(crate) fn has_a_wire_connection_each(self) -> bool {
        !matches!(self, Self::Direct | Self::Ours | Self::Envoy)
    }
}

/// The proxies of one candidate, running.
pub(crate) struct Proxies {
    /// What the client dials.
    pub(crate) entry: SocketAddr,
    /// At the client, at the server.
    pub(crate) accounts: [Account; 2],
    _processes: [Process; 2],
}

/// The two pods, and the authority for both proxies' certificates.
pub(crate) struct Sides<'a> {
    pub(crate) client: &'a Pod,
    pub(crate) server: &'a Pod,
    pub(crate) ca: &'a Ca,
    /// The port of the server's application.
    pub(crate) port: u16,
}

/// Starts both proxies of a candidate and waits until they listen; `None` for
/// those that need none.
pub(crate) fn start(candidate: Candidate, sides: &Sides<'_>) -> Result<Option<Proxies>> {
    let started = match candidate {
        Candidate::Direct | Candidate::Ours => return Ok(None),
        Candidate::Chain => chain(sides)?,
        Candidate::Envoy => {
            let envoy = envoy()?;
            let words = ["--concurrency", "2", "--disable-hot-restart", "-l", "error"];
            configured(
                sides,
                candidate,
                &ENVOY,
                |spawn, file| spawn.args(words).arg("-c").arg(file),
                &envoy,
            )?
        }
        Candidate::Nginx => configured(
            sides,
            candidate,
            &NGINX,
            |spawn, file| spawn.args(["-e", "stderr", "-c"]).arg(file),
            Path::new("nginx"),
        )?,
        Candidate::Haproxy => configured(
            sides,
            candidate,
            &HAPROXY,
            |spawn, file| spawn.args(["-db", "-f"]).arg(file),
            Path::new("haproxy"),
        )?,
        Candidate::Stunnel => configured(
            sides,
            candidate,
            &STUNNEL,
            |spawn, file| spawn.arg(file),
            Path::new("stunnel4"),
        )?,
    };
    let [(at_client, client_account), (at_server, server_account)] = started;
    sides.client.netns().wait_until_listens(ENTRY)?;
    sides.server.netns().wait_until_listens(BETWEEN)?;
    Ok(Some(Proxies {
        entry: Family::V4.loopback(ENTRY),
        accounts: [client_account, server_account],
        _processes: [at_client, at_server],
    }))
}

type Started = [(Process, Account); 2];

fn chain(sides: &Sides<'_>) -> Result<Started> {
    let myself = std::env::current_exe().doing(|| "finding this program")?;
    let between = sides.server.at(Family::V4, BETWEEN);
    let one = |pod: &Pod, listen: SocketAddr, to: SocketAddr| {
        launch(
            pod,
            pod.spawn(&myself)?
                .args(["--chain", &listen.to_string(), &to.to_string()]),
        )
    };
    Ok([
        one(sides.client, Family::V4.loopback(ENTRY), between)?,
        one(sides.server, between, Family::V4.loopback(sides.port))?,
    ])
}

/// The two configurations of a proxy that is not ours; `%name%` is filled in.
struct Templates {
    client: &'static str,
    server: &'static str,
}

const ENVOY: Templates = Templates {
    client: include_str!("envoy-client.yaml"),
    server: include_str!("envoy-server.yaml"),
};
const NGINX: Templates = Templates {
    client: include_str!("nginx-client.conf"),
    server: include_str!("nginx-server.conf"),
};
const HAPROXY: Templates = Templates {
    client: include_str!("haproxy-client.cfg"),
    server: include_str!("haproxy-server.cfg"),
};
const STUNNEL: Templates = Templates {
    client: include_str!("stunnel-client.conf"),
    server: include_str!("stunnel-server.conf"),
};

fn configured(
    sides: &Sides<'_>,
    candidate: Candidate,
    templates: &Templates,
    words: impl Fn(Spawn, &Path) -> Spawn,
    program: &Path,
) -> Result<Started> {
    let one = |pod: &Pod, template: &str, side: &str| {
        let folder = pod
            .node()
            .scene()
            .data(&format!("{}-{side}", candidate.name()))?;
        let leaf = sides.ca.leaf_for_host(
            &format!("{}-{side}", candidate.name()),
            &sides.ca.identity(side),
            SERVER_NAME,
        )?;
        let both = both_in_one(&leaf, &folder)?;
        let config = fill(
            template,
            &[
                ("server", &sides.server.address(Family::V4).to_string()),
                ("port", &sides.port.to_string()),
                ("entry", &ENTRY.to_string()),
                ("between", &BETWEEN.to_string()),
                ("certificate", &leaf.certificate.display().to_string()),
                ("key", &leaf.key.display().to_string()),
                ("certificate_and_key", &both.display().to_string()),
                ("bundle", &leaf.bundle.display().to_string()),
                ("server_name", SERVER_NAME),
                ("client_id", &sides.ca.identity("client")),
                ("server_id", &sides.ca.identity("server")),
                ("folder", &folder.display().to_string()),
            ],
        )?;
        // The suffix tells Envoy how to read it.
        let file = folder.join("config.yaml");
        fs::write(&file, config).doing(|| format!("writing {}", file.display()))?;
        launch(pod, words(pod.spawn(program)?, &file))
    };
    Ok([
        one(sides.client, templates.client, "client")?,
        one(sides.server, templates.server, "server")?,
    ])
}

/// In a cgroup of its own, so that its processor time is counted, children
/// included.
fn launch(pod: &Pod, spawn: Spawn) -> Result<(Process, Account)> {
    let cgroup = pod.cgroup().child("proxy")?;
    let process = spawn.cgroup(&cgroup).start()?;
    Ok((process, Account::of(cgroup)))
}

/// haproxy reads certificate and key from one file.
fn both_in_one(leaf: &Leaf, folder: &Path) -> Result<PathBuf> {
    let read =
        |path: &Path| fs::read_to_string(path).doing(|| format!("reading {}", path.display()));
    let file = folder.join("both.pem");
    fs::write(&file, read(&leaf.certificate)? + &read(&leaf.key)?)
        .doing(|| format!("writing {}", file.display()))?;
    Ok(file)
}

fn fill(template: &str, values: &[(&str, &str)]) -> Result<String> {
    let filled = values
        .iter()
        .fold(template.to_owned(), |text, (name, value)| {
            text.replace(&format!("%{name}%"), value)
        });
    match filled.split_once('%') {
        None => Ok(filled),
        Some((_, rest)) => Err(Error::Unexpected(format!(
            "a configuration has a name that nothing fills in: %{}",
            rest.split('%').next().unwrap_or_default()
        ))),
    }
}

/// Where `cargo xtask bench` says that it is.
fn envoy() -> Result<PathBuf> {
    std::env::var_os("MTLS_TEST_ENVOY")
        .map(PathBuf::from)
        .ok_or_else(|| {
            Error::Unexpected(
                "MTLS_TEST_ENVOY does not name an Envoy; `cargo xtask bench` fetches one and sets it"
                    .into(),
            )
        })
}
