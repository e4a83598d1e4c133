//! The configuration written out again, and compared.

use super::*;

/// The configuration of the example, with the alternatives in it too.
fn full() -> Config {
    with(
        r#"
[kernel]
cgroup = "/sys/fs/cgroup/te st"
[network]
mesh = ["10.0.0.0/16", "fd00::/48"]
[[identity.federated]]
trust_domain = "partner.example"
bundle = "/partner.pem"
[[identity.crl]]
trust_domain = "partner.example"
files = ["/partner.crl", "/inter.crl"]
urls = ["https://partner.example:443/crl", "http://[fd00::1]:80/crl?of=x"]
server_ca = "/partner-ca.pem"
poll = "1m"
policy = "soft"
depth = "leaf"
[[workload]]
name = "web"
spiffe_id = "spiffe://example.org/web"
unit = "web.service"
addresses = ["10.0.1.4", "fd00::4"]
mode = "off"
[workload.files]
certificate = "/we\"b.pem"
key = "/web-key.pem"
bundle = "/roots.pem"
[[peer]]
name = "db"
spiffe_id = "spiffe://partner.example/db"
addresses = ["10.0.2.7"]
[[service]]
name = "dbs"
addresses = ["10.96.0.10"]
ports = [5432, { port = 80, target = 8080 }]
endpoints = ["10.0.2.7"]
[limits]
drain = "1h"
handshake = "1500ms"
buffer_total = "1GiB"
"#,
    )
    .unwrap()
}

#[test]
fn what_is_shown_reads_as_the_same_configuration() {
    let config = full();
    let shown = effective(&config);
    let again = parse("shown", &shown).unwrap_or_else(|m| panic!("{m}\n{shown}"));
    assert_eq!(again, config);
    assert!(shown.contains("drain = \"1h\""), "{shown}");
    assert!(
        shown.contains("# bundle is unset: `certificate` is the root"),
        "{shown}"
    );
}

#[test]
fn every_key_is_shown() {
    for block in effective::blocks(&full()) {
        let shown: Vec<&str> = block.values.iter().map(|(key, _)| key.name).collect();
        let known: Vec<&str> = block.section.keys.iter().map(|key| key.name).collect();
        assert_eq!(shown, known, "{}", block.section.header());
    }
}

#[test]
fn the_example_is_a_good_configuration() {
    let loaded = read_text("example", &example()).unwrap_or_else(|m| panic!("{m}"));
    let warnings: Vec<String> = loaded.warnings.lines().collect();
    assert_eq!(warnings.len(), 1, "only that mesh is empty: {warnings:?}");
    // With the comments taken off, the alternatives are good TOML, too.
    let all: String = example()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let mistakes = parse("example", &all).unwrap_err();
    let what: Vec<&str> = mistakes.list.iter().map(|m| m.what.as_str()).collect();
    assert_eq!(
        what,
        [
            "certificates come from one source, here are 6",
            "there is more than one way to log in",
            "the workload is in one place, here are 3",
            "certificates come from one source, here are 5",
            "select and selectors say the same thing twice",
            "there is more than one way to log in",
            "it speaks of workloads and of namespaces",
        ],
        "{mistakes}"
    );
}

#[test]
fn a_reload_tells_what_is_live_and_what_waits() {
    let old = full();
    assert!(changes(&old, &old).is_empty());
    let mut new = old.clone();
    new.limits.drain = Duration::from_secs(60);
    new.metrics.listen.set_port(9000);
    new.workloads[0].mode = None;
    new.peers.clear();
    new.identity.source = None;
    let changes = changes(&old, &new);
    let show = |list: &[Change]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        show(&changes.live),
        [
            "limits.drain: \"1h\" -> \"1m\"",
            "peer \"db\": there -> unset",
            "workload \"web\".mode: \"off\" -> unset",
        ]
    );
    assert_eq!(
        show(&changes.restart),
        [
            "identity.disk-ca: there -> unset",
            "metrics.listen: \"127.0.0.1:15020\" -> \"127.0.0.1:9000\"",
        ]
    );
}
