use std::net::IpAddr;
use std::time::Duration;

use toml::de::DeValue;

use super::keys::{Fallback, SECTIONS, Shape};
use super::*;

mod authorization;
mod floor;
mod kubernetes;
mod shown;
mod sources;

const SMALL: &str = r#"
version = 1
[node]
name = "node-a"
[identity]
trust_domain = "example.org"
[identity.disk-ca]
certificate = "/ca.pem"
key = "/ca-key.pem"
"#;

fn with(more: &str) -> Result<Config, Mistakes> {
    parse("node.toml", &format!("{SMALL}{more}"))
}

/// The mistakes' lines of the small configuration and more; lines count from `more`.
fn mistakes(more: &str) -> Vec<String> {
    let offset = SMALL.lines().count();
    let mistakes = with(more).unwrap_err();
    mistakes
        .list
        .iter()
        .map(|mistake| {
            let place = mistake.place.unwrap();
            let line = place.line.saturating_sub(offset);
            format!(
                "{line}:{}: {}; {}",
                place.column, mistake.what, mistake.remedy
            )
        })
        .collect()
}

fn warnings(more: &str) -> Vec<String> {
    let text = format!("{SMALL}{more}");
    let loaded = read_text("node.toml", &text).unwrap();
    loaded.warnings.list.into_iter().map(|w| w.what).collect()
}

#[test]
fn defaults_are_those_of_the_table() {
    let config = with("").unwrap();
    assert_eq!(config.node.mode, Mode::Strict);
    assert_eq!(config.node.unknown, Unknown::Refuse);
    assert_eq!(config.network.tunnel_port, 15008);
    assert_eq!(config.limits.handshake, Duration::from_secs(5));
    assert_eq!(config.limits.tunnel_idle, Duration::from_secs(300));
    assert_eq!(config.limits.buffer_per_workload, 32 << 20);
    assert_eq!(config.kernel.cgroup, None);
    assert_eq!(config.metrics.listen.to_string(), "127.0.0.1:15020");
    assert_eq!(config.admin.socket, Path::new(DEFAULT_SOCKET));
    assert!(config.log.access);
    let Some(Source::DiskCa(ca)) = &config.identity.source else {
        panic!("{:?}", config.identity.source)
    };
    assert_eq!(ca.svid_ttl, Duration::from_secs(3600));
}

#[test]
fn a_node_with_everything_is_read() {
    let config = with(
        r#"
[network]
mesh = ["10.0.0.0/16", "fd00::/48"]
excluded = ["10.0.255.0/24"]
[[identity.federated]]
trust_domain = "partner.example"
bundle = "/partner.pem"
[[workload]]
name = "web"
spiffe_id = "spiffe://example.org/web"
unit = "web.service"
addresses = ["10.0.1.4", "fd00::4"]
mode = "DISABLE"
excluded_inbound_ports = [8081]
[workload.files]
certificate = "/web.pem"
key = "/web-key.pem"
bundle = "/roots.pem"
[[workload]]
name = "cache"
spiffe_id = "spiffe://example.org/cache"
netns = "/run/netns/cache"
addresses = ["10.0.1.5"]
[[peer]]
name = "db"
spiffe_id = "spiffe://partner.example/db"
addresses = ["10.0.2.7"]
tunnel = "10.0.2.7:16008"
[[service]]
name = "dbs"
addresses = ["10.96.0.10"]
ports = [5432, { port = 80, target = 8080 }]
endpoints = ["10.0.2.7", "10.0.1.5"]
"#,
    )
    .unwrap();
    let web = &config.workloads[0];
    assert_eq!(web.place, Place::Unit("web.service".to_owned()));
    assert_eq!(config.mode_of(web), Mode::Off);
    assert!(matches!(config.source_of(web), Some(Source::Files(_))));
    let cache = &config.workloads[1];
    assert!(matches!(config.source_of(cache), Some(Source::DiskCa(_))));
    assert_eq!(config.mode_of(cache), Mode::Strict);
    let ports = &config.services[0].ports;
    assert_eq!((ports[0].port, ports[0].target), (5432, 5432));
    assert_eq!((ports[1].port, ports[1].target), (80, 8080));
    assert_eq!(config.peers[0].tunnel.unwrap().port(), 16008);
}

/// One file with many mistakes: all of them, each in its place, with a remedy.
#[test]
fn all_mistakes_are_reported_at_once() {
    let text = r#"version = 2
[node]
name = "node a"
mode = "lenient"
unknwon = "pass"
[nodes]
[network]
tunnel_port = 0
mesh = ["10.0.1.4/16", "10.0.0.0"]
drain = "5s"
[identity]
trust_domain = "Example.org"
[identity.disk-ca]
certificate = "ca.pem"
svid_ttl = 3600
[workload]
name = "web"
[[peer]]
name = "db"
spiffe_id = "example.org/db"
addresses = ["127.0.0.1", "::ffff:10.0.0.1"]
tunnel = "10.0.2.7:0"
[limits]
handshake = "5 s"
connect = "2h"
buffer_total = "1MB"
[log]
filter = "mtls_daemon=loud"
access = "yes"
"#;
    let found = parse("node.toml", text).unwrap_err().to_string();
    let expected = r#"node.toml:1:11: version 2 is not known to this daemon; write version = 1, or use the daemon that the file is for
node.toml:3:8: node.name: "node a" is no name; write 1 to 253 letters, digits, '.', '-' or '_'
node.toml:4:8: node.mode: "lenient" is none of the choices; write "off" or "permissive" or "strict"
node.toml:5:1: [node] has no key "unknwon"; did you mean `unknown`?
node.toml:6:2: the file has no key "nodes"; did you mean `node`?
node.toml:8:15: network.tunnel_port: 0 is out of range; write a port, 1 to 65535
node.toml:9:9: network.mesh: "10.0.1.4/16" has bits set behind its prefix length; write "10.0.0.0/16", or the length that was meant
node.toml:9:24: network.mesh: "10.0.0.0" is no network; write the prefix length too: "10.0.0.0/32" for this one address
node.toml:10:1: [network] has no key "drain"; it belongs to [limits]
node.toml:12:16: identity.trust_domain: "Example.org" is no trust domain: TRUST_DOMAIN; write it without spiffe:// and path, such as "example.org"
node.toml:13:1: identity.disk-ca.key is missing; add a line such as `key = "/etc/mtls-daemon/ca-key.pem"`
node.toml:14:15: identity.disk-ca.certificate: "ca.pem" is no absolute path; write the whole path, from / on: a daemon has no current folder to speak of
node.toml:15:12: identity.disk-ca.svid_ttl: expected a duration, found a number; write a text in quotes, such as "5s"
node.toml:16:1: workload can stand several times; write [[workload]], with two brackets
node.toml:20:13: peer.spiffe_id: "example.org/db" is no SPIFFE ID: SPIFFE_ID; write one such as "spiffe://example.org/web"
node.toml:21:14: peer.addresses: "127.0.0.1" does not say which workload is meant; write an address that other workloads reach it at: not a loopback, link-local, unspecified or multicast one
node.toml:21:27: peer.addresses: "::ffff:10.0.0.1" is an IPv4 address in IPv6 clothes; write "10.0.0.1"
node.toml:22:10: peer.tunnel: nothing can be reached at "10.0.2.7:0"; write the address and the port at which the peer's daemon takes tunnels
node.toml:24:13: limits.handshake: "5 s" is no duration; write a number and ms, s, m, h or d, such as "500ms", "5s" or "1h30m"
node.toml:25:11: limits.connect: "2h" is out of range; write a duration, 10ms to 1m
node.toml:26:16: limits.buffer_total: "1MB" is no size; write a number and B, KiB, MiB, GiB or TiB, such as "64MiB"
node.toml:28:10: log.filter: "mtls_daemon=loud" is no log filter; write a level, such as "info", or levels by module, such as "info,mtls_daemon::pool=debug"
node.toml:29:10: log.access: expected true or false, found a text; write true or false, without quotes"#;
    // These two are the words of another module.
    let trust_domain = "Example.org".parse::<TrustDomain>().unwrap_err();
    let spiffe_id = "example.org/db".parse::<SpiffeId>().unwrap_err();
    let expected = expected
        .replace("TRUST_DOMAIN", &trust_domain.to_string())
        .replace("SPIFFE_ID", &spiffe_id.to_string());
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.lines().count(), expected.lines().count(), "{found}");
}

#[test]
fn what_is_not_toml_is_told_beside_the_other_mistakes() {
    let text =
        "version = 1\n[node]\nmode = stric\n[limits]\ndrain = 5s\nconnect = \"soon\"\nwait = 1\n";
    let found = parse("x", text).unwrap_err().to_string();
    let expected = r#"x:3:8: this is not TOML: string values must be quoted, expected literal string; correct the line; texts stand in "quotes", lists in [brackets]
x:5:9: this is not TOML: string values must be quoted, expected literal string; correct the line; texts stand in "quotes", lists in [brackets]
x:6:11: limits.connect: "soon" is no duration; write a number and ms, s, m, h or d, such as "500ms", "5s" or "1h30m""#;
    assert_eq!(found, expected);
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "([a-z_=\\[\\]\"{}., \\n0-9é-]|\\[node\\]|mode|version = 1|\\[\\[workload\\]\\]|addresses){0,60}") {
        let _ = parse("x", &text);
    }
}

#[test]
fn an_empty_file_is_told_what_is_needed() {
    let found = parse("x", "").unwrap_err();
    let what: Vec<&str> = found.list.iter().map(|m| m.what.as_str()).collect();
    assert_eq!(
        what,
        ["version is missing", "identity.trust_domain is missing"]
    );
}

#[test]
fn a_missing_file_is_told_with_the_way_out() {
    let error = load(Path::new("/nonexistent/node.toml"))
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("/nonexistent/node.toml: the configuration cannot be read"));
    assert!(error.contains("config example"));
}

#[test]
fn an_address_has_one_meaning() {
    let found = mistakes(
        r#"[[workload]]
name = "a"
spiffe_id = "spiffe://example.org/a"
netns = "/run/netns/a"
addresses = ["10.0.1.4"]
[[peer]]
name = "b"
spiffe_id = "spiffe://example.org/b"
addresses = ["10.0.2.4", "10.0.1.4"]
"#,
    );
    assert_eq!(
        found,
        [
            "9:26: 10.0.1.4 belongs to workload \"a\" already; an address stands for one workload, peer or service: write it once"
        ]
    );
}

#[test]
fn names_and_places_are_unique() {
    let workload = |name: &str, address: &str| {
        format!(
            "[[workload]]\nname = \"{name}\"\nspiffe_id = \"spiffe://example.org/a\"\ncgroup = \"/c\"\naddresses = [\"{address}\"]\n"
        )
    };
    let found = mistakes(&(workload("a", "10.0.1.4") + &workload("a", "10.0.1.5")));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("7:8: another workload is called \"a\" already"));
    assert!(found[1].starts_with("9:10: workload \"a\" is in the same place"));
}

#[test]
fn a_workload_is_in_exactly_one_place() {
    let workload = |places: &str| {
        format!(
            "[[workload]]\nname = \"a\"\nspiffe_id = \"spiffe://example.org/a\"\naddresses = [\"10.0.1.4\"]\n{places}"
        )
    };
    assert!(mistakes(&workload(""))[0].contains("nothing says where the workload is"));
    let two = mistakes(&workload("netns = \"/n\"\nunit = \"u.service\"\n"));
    assert!(
        two[0].starts_with("6:8: the workload is in one place, here are 2"),
        "{two:?}"
    );
}

#[test]
fn endpoints_are_known_addresses() {
    let service = "[[service]]\nname = \"s\"\naddresses = [\"10.96.0.1\"]\nports = [80, 80]\nendpoints = [\"10.0.2.9\"]\n";
    let found = mistakes(service);
    assert!(
        found[0].starts_with("4:14: port 80 stands here twice"),
        "{found:?}"
    );
    assert!(found[1].starts_with("5:14: 10.0.2.9 is an address of no workload and no peer"));
    // With a peer that could not be read, it may be that one.
    let bad_peer = "[[peer]]\nname = \"p\"\nspiffe_id = \"nothing\"\naddresses = [\"10.0.2.9\"]\n";
    let found = mistakes(&format!("{service}{bad_peer}"));
    assert!(
        !found.iter().any(|m| m.contains("of no workload")),
        "{found:?}"
    );
}

#[test]
fn a_foreign_identity_needs_its_own_source_or_roots() {
    let found = mistakes(
        r#"[[workload]]
name = "a"
spiffe_id = "spiffe://other.org/a"
netns = "/a"
addresses = ["10.0.1.4"]
[[peer]]
name = "b"
spiffe_id = "spiffe://third.org/b"
addresses = ["10.0.2.4"]
"#,
    );
    assert!(found[0].starts_with("3:13: spiffe://other.org/a is not in the node's trust domain"));
    assert!(found[1].starts_with("8:13: the trust domain third.org is not known here"));
}

#[test]
fn without_a_node_source_every_workload_brings_one() {
    let text = r#"version = 1
[identity]
trust_domain = "example.org"
[[workload]]
name = "a"
spiffe_id = "spiffe://example.org/a"
netns = "/a"
addresses = ["10.0.1.4"]
"#;
    let found = parse("x", text).unwrap_err().to_string();
    assert!(
        found.contains("x:5:8: nothing issues certificates for workload \"a\""),
        "{found}"
    );
    let files = "[workload.files]\ncertificate = \"/c\"\nkey = \"/k\"\nbundle = \"/b\"\n";
    let config = parse("x", &format!("{text}{files}")).unwrap();
    assert_eq!(config.identity.source, None);
}

#[test]
fn two_sources_are_one_too_many() {
    let files = "[identity.files]\ncertificate = \"/c\"\nkey = \"/k\"\nbundle = \"/b\"\n";
    assert!(mistakes(files)[0].starts_with("1:1: certificates come from one source"));
}

#[test]
fn networks_that_contradict_each_other_are_told() {
    let found = mistakes(
        "[network]\nmesh = [\"10.0.0.0/16\", \"127.0.0.0/8\"]\nexcluded = [\"10.0.0.0/8\"]\nexcluded_inbound_ports = [80, 15008]\n",
    );
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("2:9: 10.0.0.0/16 is excluded as a whole"));
    assert!(found[1].starts_with("2:24: 127.0.0.0/8 covers loopback"));
    assert!(found[2].starts_with("4:31: 15008 is the port of the tunnels"));
}

#[test]
fn what_is_only_strange_is_a_warning() {
    assert!(warnings("")[0].contains("network.mesh is empty"));
    let found = warnings(
        "[network]\nmesh = [\"10.0.0.0/16\"]\nexcluded = [\"10.0.2.0/24\"]\n[limits]\nestablish = \"1s\"\n[[peer]]\nname = \"b\"\nspiffe_id = \"spiffe://example.org/b\"\naddresses = [\"10.0.2.4\"]\n",
    );
    assert!(
        found[0].contains("limits.establish is shorter"),
        "{found:?}"
    );
    assert!(
        found[1].contains("10.0.2.4 lies in the excluded network"),
        "{found:?}"
    );
}

#[test]
fn every_default_and_example_in_the_table_has_its_shape() {
    fn fits(shape: &Shape, text: &str) -> bool {
        use super::value::{Bytes, Value};
        let value = DeValue::parse(text).unwrap();
        let mut wrong = Vec::new();
        let read = match shape {
            Shape::Version => u32::read(&value, shape, &mut wrong).is_some(),
            Shape::Bool => bool::read(&value, shape, &mut wrong).is_some(),
            Shape::Name | Shape::Filter | Shape::Unit | Shape::Mount | Shape::LabelPrefix => {
                String::read(&value, shape, &mut wrong).is_some()
            }
            Shape::Path => PathBuf::read(&value, shape, &mut wrong).is_some(),
            Shape::Port => u16::read(&value, shape, &mut wrong).is_some(),
            Shape::Ip => IpAddr::read(&value, shape, &mut wrong).is_some(),
            Shape::Socket | Shape::Peer => SocketAddr::read(&value, shape, &mut wrong).is_some(),
            Shape::Network => IpNet::read(&value, shape, &mut wrong).is_some(),
            Shape::SpiffeId => SpiffeId::read(&value, shape, &mut wrong).is_some(),
            Shape::TrustDomain => TrustDomain::read(&value, shape, &mut wrong).is_some(),
            Shape::PortWithMode => PortMode::read(&value, shape, &mut wrong).is_some(),
            Shape::ServicePort => ServicePort::read(&value, shape, &mut wrong).is_some(),
            Shape::Url => ServerUrl::read(&value, shape, &mut wrong).is_some(),
            Shape::FileUrl => FileUrl::read(&value, shape, &mut wrong).is_some(),
            Shape::IdTemplate => IdTemplate::read(&value, shape, &mut wrong).is_some(),
            Shape::SecretName => SecretName::read(&value, shape, &mut wrong).is_some(),
            Shape::Pattern => Pattern::read(&value, shape, &mut wrong).is_some(),
            Shape::WorkloadPattern => Selected::read(&value, shape, &mut wrong).is_some(),
            Shape::Selector => Selector::read(&value, shape, &mut wrong).is_some(),
            Shape::Choice(words) => words.contains(&value.get_ref().as_str().unwrap()),
            Shape::Duration(..) => Duration::read(&value, shape, &mut wrong).is_some(),
            Shape::Size(..) => Bytes::read(&value, shape, &mut wrong).is_some(),
            Shape::Count(..) => usize::read(&value, shape, &mut wrong).is_some(),
            Shape::List(inner) => value
                .get_ref()
                .as_array()
                .unwrap()
                .iter()
                .all(|item| fits(inner, &text[item.span()])),
        };
        read && wrong.is_empty()
    }
    for section in SECTIONS {
        for key in section.keys {
            let path = section.path_of(key.name);
            assert!(fits(&key.shape, key.example), "{path}: {}", key.example);
            if let Fallback::Is(default) = key.default {
                assert!(fits(&key.shape, default), "{path}: {default}");
            }
        }
    }
}
