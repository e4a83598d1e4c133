use std::collections::BTreeSet;
use std::path::Path;

use super::*;

fn sample<'a>(text: &'a str, series: &str) -> &'a str {
    text.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
        .unwrap_or_else(|| panic!("no series {series} in\n{text}"))
}

fn full_scrape(metrics: &Metrics) -> String {
    let id: SpiffeId = "spiffe://example.org/web".parse().unwrap();
    metrics.certificate("web", &id, Some(UNIX_EPOCH + Duration::from_secs(1000)));
    metrics.trust_bundle(&id.trust_domain(), 2);
    let kernel = KernelFigures {
        counts: vec![
            HookCount {
                hook: Hook::Connect4,
                outcome: Answer::PassedOutside,
                count: 3,
            },
            HookCount {
                hook: Hook::Egress,
                outcome: Answer::Dropped,
                count: 4,
            },
        ],
        maps: vec![MapUsage {
            map: "WORKLOADS",
            entries: 1,
            capacity: 8,
        }],
        pins_restored: 0,
        veth_gates: vec![("armed", 2)],
        hooks: vec![HookState {
            hook: Hook::Connect4,
            attached: true,
        }],
    };
    let node = NodeFigures {
        strict_losses: [("web".to_owned(), 2)].into(),
        ready: true,
        workloads_ready: 1,
        policies: vec![(["PeerAuthentication", "whole"], 1)],
        roots_end: [(id.trust_domain(), UNIX_EPOCH + Duration::from_secs(3000))].into(),
        sources: [("disk-ca".to_owned(), true)].into(),
        crls: vec![NextUpdate {
            trust_domain: id.trust_domain(),
            issuer: "CN=root".to_owned(),
            at: UNIX_EPOCH + Duration::from_secs(2000),
        }],
        heartbeats: vec![("worker-0".to_owned(), Duration::from_millis(500))],
        ..NodeFigures::default()
    };
    let rule = Arc::from("callers[0]");
    (metrics.thread()).policy_decided(&rule, Decided::WouldDeny);
    metrics.render(&kernel, &node)
}

#[test]
fn threads_are_summed() {
    let metrics = Metrics::new(SystemTime::now());
    let (one, two) = (metrics.thread(), metrics.thread());
    one.pool_acquired(Acquire::Hit);
    two.pool_acquired(Acquire::Hit);
    two.pool_acquired(Acquire::Wait);
    let text = full_scrape(&metrics);
    assert_eq!(
        sample(&text, "mtls_pool_acquire_total{result=\"hit\"}"),
        "2"
    );
    assert_eq!(sample(&text, "mtls_handshakes_avoided_total"), "3");
    assert_eq!(
        sample(&text, "mtls_pool_acquire_total{result=\"miss\"}"),
        "0"
    );
}

#[test]
fn a_connection_is_open_until_it_ends() {
    let metrics = Metrics::new(SystemTime::now());
    let thread = metrics.thread();
    thread.connection_established(Direction::Inbound, Duration::from_millis(3));
    let series = "mtls_connections_open{direction=\"inbound\"}";
    assert_eq!(sample(&full_scrape(&metrics), series), "1");
    thread.connection_ended(Direction::Inbound, Reason::Done);
    let text = full_scrape(&metrics);
    assert_eq!(sample(&text, series), "0");
    assert_eq!(
        sample(
            &text,
            "mtls_connections_ended_total{direction=\"inbound\",reason=\"done\"}"
        ),
        "1"
    );
}

#[test]
fn handshakes_are_counted_timed_and_explained() {
    let metrics = Metrics::new(SystemTime::now());
    let thread = metrics.thread();
    let took = Duration::from_micros(1500);
    thread.handshake_done(Direction::Outbound, false, Some(NamedGroup::X25519), took);
    thread.handshake_failed(Direction::Inbound, Reason::Expired);
    let text = full_scrape(&metrics);
    for (series, value) in [
        (
            "mtls_handshakes_total{direction=\"outbound\",result=\"ok\",resumed=\"false\",version=\"1.3\",group=\"X25519\"}",
            "1",
        ),
        (
            "mtls_handshakes_total{direction=\"inbound\",result=\"error\",resumed=\"\",version=\"\",group=\"\"}",
            "1",
        ),
        (
            "mtls_handshake_failures_total{direction=\"inbound\",reason=\"expired\"}",
            "1",
        ),
        (
            "mtls_handshake_failures_total{direction=\"outbound\",reason=\"expired\"}",
            "0",
        ),
        (
            "mtls_handshake_duration_seconds_bucket{direction=\"outbound\",result=\"ok\",resumed=\"false\",version=\"1.3\",group=\"X25519\",le=\"0.001\"}",
            "0",
        ),
        (
            "mtls_handshake_duration_seconds_bucket{direction=\"outbound\",result=\"ok\",resumed=\"false\",version=\"1.3\",group=\"X25519\",le=\"0.002\"}",
            "1",
        ),
        (
            "mtls_handshake_duration_seconds_bucket{direction=\"outbound\",result=\"ok\",resumed=\"false\",version=\"1.3\",group=\"X25519\",le=\"+Inf\"}",
            "1",
        ),
        (
            "mtls_handshake_duration_seconds_sum{direction=\"outbound\",result=\"ok\",resumed=\"false\",version=\"1.3\",group=\"X25519\"}",
            "0.0015",
        ),
    ] {
        assert_eq!(sample(&text, series), value, "{series}");
    }
}

#[test]
fn what_passes_in_clear_is_counted() {
    let text = full_scrape(&Metrics::new(SystemTime::now()));
    let series = |direction, reason| {
        let labels = format!("{{direction=\"{direction}\",reason=\"{reason}\"}}");
        sample(&text, &format!("mtls_plaintext_connections_total{labels}")).to_owned()
    };
    assert_eq!(series("outbound", "outside"), "3");
    assert_eq!(series("inbound", "excluded"), "0");
}

#[test]
fn a_bypass_is_counted_under_its_hook() {
    let text = full_scrape(&Metrics::new(SystemTime::now()));
    assert_eq!(
        sample(&text, "mtls_bypass_blocked_total{hook=\"cgroup_egress\"}"),
        "4"
    );
    let quiet = "mtls_bypass_blocked_total{hook=\"cgroup_ingress\"}";
    assert_eq!(
        sample(&text, quiet),
        "0",
        "a gate is there before it stops anything"
    );
    assert!(!text.contains("mtls_bypass_blocked_total{hook=\"connect4\"}"));
}

#[test]
fn a_workload_without_a_certificate_shows_zero_and_a_gone_one_nothing() {
    let metrics = Metrics::new(SystemTime::now());
    let id: SpiffeId = "spiffe://example.org/db".parse().unwrap();
    metrics.certificate("db", &id, None);
    let series = "mtls_certificate_expiry_timestamp_seconds{workload=\"db\",identity=\"spiffe://example.org/db\"}";
    assert_eq!(sample(&full_scrape(&metrics), series), "0");
    metrics.forget_certificate("db");
    assert!(!full_scrape(&metrics).contains(series));
}

#[test]
fn exported_families_are_exactly_the_documented_ones() {
    let metrics = Metrics::new(SystemTime::now());
    let _thread = metrics.thread();
    let text = full_scrape(&metrics);
    let exported: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let documented: BTreeSet<&str> = families::ALL.iter().map(|f| f.name).collect();
    assert_eq!(exported, documented);
    assert!(documented.iter().all(|name| name.starts_with("mtls_")));
}

#[test]
fn families_follow_prometheus_naming() {
    for family in families::ALL {
        let total = family.name.ends_with("_total");
        assert_eq!(
            total,
            family.kind == families::Kind::Counter,
            "{}",
            family.name
        );
        assert!(family.help.ends_with('.'), "{}", family.name);
    }
}

/// Alerts and dashboard ask for what is there.
#[test]
fn what_is_deployed_knows_the_metrics() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let metrics: BTreeSet<&str> = families::ALL.iter().map(|f| f.name).collect();
    let mut asked = BTreeSet::new();
    for file in ["prometheus/alerts.yml", "grafana/mtls-daemon.json"] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| word.starts_with("mtls_")) {
            let name = word.strip_suffix("_bucket").unwrap_or(word);
            assert!(metrics.contains(name), "{file}: there is no metric {name}");
            asked.insert(name.to_owned());
        }
    }
    assert!(asked.len() > 20, "{asked:?}");
}

/// The rules of the text format that scrapers rely on.
#[test]
fn a_scrape_follows_the_text_format() {
    let metrics = Metrics::new(SystemTime::now());
    let _thread = metrics.thread();
    let text = full_scrape(&metrics);
    assert!(text.ends_with('\n'));
    let mut series = BTreeSet::new();
    let mut current = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            current = rest.split(' ').next().unwrap();
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with(current), "{line} stands under {current}");
            assert!(series.insert(name.to_owned()), "{line} stands there twice");
            value.parse::<f64>().unwrap();
        }
    }
    // Histograms: cumulated, and +Inf is the count.
    let bucket = "mtls_handshake_duration_seconds_bucket{direction=\"inbound\",result=\"error\",resumed=\"\",version=\"\",group=\"\",le=\"+Inf\"}";
    let count = "mtls_handshake_duration_seconds_count{direction=\"inbound\",result=\"error\",resumed=\"\",version=\"\",group=\"\"}";
    assert_eq!(sample(&text, bucket), sample(&text, count));
}
