//! Where certificates come from, out of a part of the file that may name one
//! source: `[identity]` or a `[[workload]]`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::Source;
use super::cert_manager::cert_manager;
use super::reader::Part;
use super::secrets::secrets;

/// `[identity.disk-ca]`: an authority whose key lies on this node.
#[derive(Clone, Debug, PartialEq)]
pub struct DiskCa {
    /// PEM: the authority's certificate, then the chain up to, without, its root.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
    /// PEM: the roots that peers are verified against; `None`: `certificate` is the root.
    pub bundle: Option<PathBuf>,
    /// Lifetime of a workload's certificate. Default: 1 h.
    pub svid_ttl: Duration,
}

/// `files`: certificates that something else writes.
#[derive(Clone, Debug, PartialEq)]
pub struct Files {
    /// PEM: leaf first, then intermediates.
    pub certificate: PathBuf,
    /// PEM: private key of the leaf.
    pub key: PathBuf,
    /// PEM: trust bundle of the leaf's trust domain.
    pub bundle: PathBuf,
}

/// `[identity.spire]`: the agent of this node, asked on the workloads' behalf.
#[derive(Clone, Debug, PartialEq)]
pub struct Spire {
    /// Its admin socket.
    pub socket: PathBuf,
}

/// By what a SPIRE agent is told which entries are a workload's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SelectedBy {
    /// A selector that holds the workload's name, and that no attestor makes.
    #[default]
    Name,
    Selectors(Vec<Selector>),
    /// A process in its network namespace, which the agent attests.
    Pid,
}

/// `unix:uid:1000`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    pub kind: String,
    pub value: String,
}

/// `[identity.vault]`: the PKI of an OpenBao or Vault.
#[derive(Clone, Debug, PartialEq)]
pub struct Vault {
    pub address: ServerUrl,
    /// PEM: the roots that the server itself is verified against.
    pub server_ca: Option<PathBuf>,
    pub namespace: Option<String>,
    /// Where its PKI is mounted. Default: pki.
    pub mount: String,
    pub role: String,
    /// Lifetime of a workload's certificate. Default: 1 h.
    pub svid_ttl: Duration,
    /// PEM: the roots that peers are verified against.
    pub bundle: PathBuf,
    pub login: Login,
}

/// How a Vault knows us.
#[derive(Clone, Debug, PartialEq)]
pub enum Login {
    /// Something else, such as Vault's own agent, keeps a token in a file.
    TokenFile(PathBuf),
    AppRole {
        mount: String,
        role_id: String,
        secret_id_file: PathBuf,
    },
    /// The token of a Kubernetes service account, which the server has the API
    /// server judge, or whose signature it knows.
    Account {
        mount: String,
        role: String,
        token_file: PathBuf,
    },
}

/// `https://vault.example.org:8200`: a server, and nothing of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    pub tls: bool,
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
}

/// `https://vault.example.org:8200/v1/pki/crl`: a file on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileUrl {
    pub server: ServerUrl,
    /// From its first slash on, with the query if there is one.
    pub path: String,
}

/// The tables that name a source.
pub(super) const SOURCES: [&str; 6] = [
    "disk-ca",
    "files",
    "spire",
    "vault",
    "cert-manager",
    "secrets",
];

/// The source in a part, which may name one at most. A workload that says
/// nothing else has the `node`'s agent.
pub(super) fn source(part: &Part<'_>, node: Option<&Source>) -> Option<Source> {
    let is_named = |name: &&str| part.has(name) && part.knows_table(name);
    let named: Vec<&str> = SOURCES.into_iter().filter(is_named).collect();
    if let [_, second, ..] = named.as_slice() {
        part.complain(
            part.at(second),
            format!(
                "certificates come from one source, here are {}",
                number(named.len())
            ),
            format!("keep one of {}", named.join(", ")),
        );
    }
    let read = |name: &str| -> Option<Source> {
        let part = part.maybe(name)?;
        match name {
            "disk-ca" => disk_ca(&part).map(Source::DiskCa),
            "files" => files(&part).map(Source::Files),
            "spire" => spire(&part, node),
            "vault" => vault(&part).map(Source::Vault),
            "secrets" => secrets(&part).map(|config| Source::Secrets(config, None)),
            _ => cert_manager(&part).map(|config| Source::CertManager(config, None)),
        }
    };
    // All of them, for all mistakes.
    let sources: Vec<Option<Source>> = named.into_iter().map(read).collect();
    sources.into_iter().flatten().next()
}

fn number(count: usize) -> String {
    match count {
        2 => "two".to_owned(),
        many => many.to_string(),
    }
}

fn disk_ca(part: &Part<'_>) -> Option<DiskCa> {
    let certificate = part.get("certificate");
    let key = part.get("key");
    let bundle = part.get("bundle");
    let svid_ttl = part.get::<Duration>("svid_ttl");
    Some(DiskCa {
        certificate: certificate?,
        key: key?,
        bundle,
        svid_ttl: svid_ttl?,
    })
}

fn files(part: &Part<'_>) -> Option<Files> {
    let certificate = part.get("certificate");
    let key = part.get("key");
    let bundle = part.get("bundle");
    Some(Files {
        certificate: certificate?,
        key: key?,
        bundle: bundle?,
    })
}

fn spire(part: &Part<'_>, node: Option<&Source>) -> Option<Source> {
    let nodes = match node {
        Some(Source::Spire(spire, selected)) => Some((spire, selected)),
        _ => None,
    };
    let socket: Option<PathBuf> = part.get("socket");
    let socket = socket.or_else(|| Some(nodes?.0.socket.clone()));
    let of_workload = part.knows("selectors");
    if of_workload && socket.is_none() && !part.has("socket") {
        part.complain(
            part.at("socket"),
            "the agent's socket is missing".to_owned(),
            "add a line such as `socket = \"/run/spire/admin/agent.sock\"`, or [identity.spire] with it",
        );
    }
    let selectors: Option<Vec<Selector>> = match of_workload {
        true => part.get("selectors"),
        false => None,
    };
    let select = part.get::<SelectedBy>("select");
    if selectors.is_some() && part.has("select") {
        part.complain(
            part.at("select"),
            "select and selectors say the same thing twice".to_owned(),
            "keep one of them",
        );
    }
    if selectors.as_ref().is_some_and(Vec::is_empty) {
        part.complain(
            part.at("selectors"),
            "selectors is empty".to_owned(),
            "write at least one, or take it out",
        );
    }
    let selected = selectors
        .map(SelectedBy::Selectors)
        .or(select)
        .or_else(|| Some(nodes?.1.clone()))
        .unwrap_or_default();
    Some(Source::Spire(Spire { socket: socket? }, selected))
}

fn vault(part: &Part<'_>) -> Option<Vault> {
    let address = part.get::<ServerUrl>("address");
    let server_ca: Option<PathBuf> = part.get("server_ca");
    let namespace = part.get("namespace");
    let mount = part.get("mount");
    let role = part.get("role");
    let svid_ttl = part.get::<Duration>("svid_ttl");
    let bundle = part.get("bundle");
    let login = login(part);
    if let Some(address) = &address {
        if address.tls && server_ca.is_none() && !part.has("server_ca") {
            part.complain(
                part.at("address"),
                "nothing says which authority vouches for the server".to_owned(),
                "add server_ca, a PEM file with the root of the server's certificate",
            );
        }
        if !address.tls && !address.is_loopback() {
            part.complain(
                part.at("address"),
                "a login would travel in clear".to_owned(),
                "write https://; http:// is for a server on this machine alone, such as http://127.0.0.1:8200",
            );
        }
    }
    Some(Vault {
        address: address?,
        server_ca,
        namespace,
        mount: mount?,
        role: role?,
        svid_ttl: svid_ttl?,
        bundle: bundle?,
        login: login?,
    })
}

/// The keys that choose a way to log in.
const WAYS: [(&str, &[&str]); 3] = [
    ("token_file", &["token_file"]),
    ("role_id and secret_id_file", &["role_id", "secret_id_file"]),
    ("auth_role", &["auth_role"]),
];

fn login(part: &Part<'_>) -> Option<Login> {
    let token_file = part.get("token_file");
    let (mount, role_id) = (part.get("approle_mount"), part.get("role_id"));
    let secret_id_file = part.get("secret_id_file");
    let (auth_mount, auth_role) = (part.get("auth_mount"), part.get("auth_role"));
    let account_token_file = part.get("account_token_file");
    let is_chosen = |way: &&(&str, &[&'static str])| way.1.iter().any(|key| part.has(key));
    let chosen: Vec<_> = WAYS.iter().filter(is_chosen).collect();
    let [(way, keys)] = chosen.as_slice() else {
        let ways = WAYS.map(|(way, _)| way).join(", or ");
        let (what, remedy) = match chosen.is_empty() {
            true => ("nothing says how to log in", format!("add {ways}")),
            false => (
                "there is more than one way to log in",
                format!("keep {ways}"),
            ),
        };
        part.complain(part.at("token_file"), what.to_owned(), remedy);
        return None;
    };
    for missing in keys.iter().filter(|key| !part.has(key)) {
        let what = format!("{missing} is missing");
        part.complain(
            part.at(missing),
            what,
            format!("an AppRole has both: {way}"),
        );
    }
    if part.has("token_file") {
        return token_file.map(Login::TokenFile);
    }
    if part.has("auth_role") {
        return Some(Login::Account {
            mount: auth_mount?,
            role: auth_role?,
            token_file: account_token_file?,
        });
    }
    Some(Login::AppRole {
        mount: mount?,
        role_id: role_id?,
        secret_id_file: secret_id_file?,
    })
}

impl Source {
    /// Whether both are asked at the same place: they share one connection.
    pub fn same_authority(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Spire(own, _), Self::Spire(other, _)) => own == other,
            (Self::CertManager(own, _), Self::CertManager(other, _)) => own == other,
            (Self::Secrets(own, _), Self::Secrets(other, _)) => own == other,
            _ => self == other,
        }
    }
}

impl ServerUrl {
    /// A literal address: what a name leads to is for a resolver to say.
    fn is_loopback(&self) -> bool {
        self.host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
    }

    /// `None`: it is no URL of a server.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let uri: http::Uri = text.parse().ok()?;
        let is_bare = uri.path() == "/" && !text.contains(['?', '#']);
        is_bare.then(|| Self::of(&uri))?
    }

    fn of(uri: &http::Uri) -> Option<Self> {
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        if authority.as_str().contains('@') {
            return None;
        }
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        Some(Self {
            tls,
            host: bare.unwrap_or(host).to_owned(),
            port: match (authority.port(), tls) {
                (Some(port), _) => port.as_u16(),
                (None, true) => 443,
                (None, false) => 80,
            },
        })
    }
}

impl FileUrl {
    /// `None`: it is no URL of a file.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let uri: http::Uri = text.parse().ok()?;
        let path = uri.path_and_query()?.as_str();
        let is_file = path != "/" && !text.contains('#');
        Some(Self {
            server: ServerUrl::of(&uri).filter(|_| is_file)?,
            path: path.to_owned(),
        })
    }
}

impl Selector {
    /// `None`: it is no selector.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (kind, value) = text.split_once(':')?;
        let good = !kind.is_empty()
            && !value.is_empty()
            && !text.chars().any(char::is_control)
            && !kind.contains(char::is_whitespace);
        good.then(|| Self {
            kind: kind.to_owned(),
            value: value.to_owned(),
        })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

/// The host as it stands in a URL, and the port.
impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for FileUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.server, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_scheme_a_host_and_a_port() {
        let read = |text| ServerUrl::parse(text).map(|url| url.to_string());
        for (text, shown) in [
            (
                "https://vault.example.org:8200",
                "https://vault.example.org:8200",
            ),
            (
                "https://vault.example.org/",
                "https://vault.example.org:443",
            ),
            ("http://[::1]:8200", "http://[::1]:8200"),
        ] {
            assert_eq!(read(text).as_deref(), Some(shown));
        }
        for bad in [
            "vault.example.org:8200",
            "ftp://vault",
            "https://",
            "https://user@vault",
            "https://vault/v1",
            "https://vault?x",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        let loopback = |text| ServerUrl::parse(text).unwrap().is_loopback();
        assert!(loopback("http://127.0.0.1") && loopback("http://[::1]"));
        assert!(!loopback("http://localhost") && !loopback("http://10.0.0.1"));
    }

    #[test]
    fn a_file_is_a_server_and_a_path() {
        let read = |text| FileUrl::parse(text).map(|url| url.to_string());
        for (text, shown) in [
            (
                "https://vault:8200/v1/pki/crl",
                "https://vault:8200/v1/pki/crl",
            ),
            ("http://[::1]/lists?of=ca", "http://[::1]:80/lists?of=ca"),
        ] {
            assert_eq!(read(text).as_deref(), Some(shown));
        }
        for bad in [
            "https://vault",
            "/v1/pki/crl",
            "ldap://vault/crl",
            "https://user@vault/crl",
            "https://vault/crl#x",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_selector_has_a_type_and_a_value() {
        let read = |text| Selector::parse(text).map(|s| (s.kind, s.value));
        let uid = ("unix".to_owned(), "uid:1000".to_owned());
        assert_eq!(read("unix:uid:1000"), Some(uid));
        for bad in ["unix", ":x", "unix:", "a b:c", "unix:a\nb"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
