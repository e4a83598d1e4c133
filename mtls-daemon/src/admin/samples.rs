//! A node as tests see it.

use std::time::{Duration, UNIX_EPOCH};

use crate::config::{Mode, Place};
use crate::reason::Reason;
use crate::trace::ConnectionId;

use super::view::{
    CertificateStatus, Certificates, ConfigStatus, Connection, ConnectionDirection, NodeStatus,
    Phase, RevocationListStatus, RevocationStatus, RootStatus, Stage, SvidStatus,
    TrustBundleStatus, WorkloadState, WorkloadStatus,
};

pub(crate) fn status() -> NodeStatus {
    let started = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    NodeStatus {
        node: "node-a".to_owned(),
        version: "0.1.0".to_owned(),
        pid: 4711,
        started,
        config: ConfigStatus {
            path: "/etc/mtls-daemon/config.toml".into(),
            loaded: started,
            reload_error: None,
            restart_needed: Vec::new(),
        },
        phase: Phase::Serving,
        workloads: vec![WorkloadStatus {
            name: "web".to_owned(),
            identity: "spiffe://example.org/web".parse().unwrap(),
            place: Place::Netns("/run/netns/web".into()),
            mode: Mode::Strict,
            because: "the configuration".to_owned(),
            since: Some(started),
            state: WorkloadState::Ready,
            svid: Some(SvidStatus {
                not_before: started,
                not_after: started + Duration::from_secs(3600),
                serial: "0a1b".to_owned(),
                issuer: "CN=root".to_owned(),
            }),
            renewal_error: None,
            netns_cookie: Some(42),
            addresses: vec!["10.0.1.4".parse().unwrap(), "fd00::4".parse().unwrap()],
            connections: 3,
        }],
        trust_bundles: vec![TrustBundleStatus {
            trust_domain: "example.org".parse().unwrap(),
            roots: 1,
            generation: 1,
            error: None,
        }],
        revocation: Vec::new(),
        cluster: None,
        pins_error: None,
        plugin_error: None,
        peers: 2,
        services: 1,
        displaced: Vec::new(),
    }
}

pub(crate) fn revocation() -> RevocationStatus {
    let started = status().started;
    RevocationStatus {
        trust_domain: "example.org".parse().unwrap(),
        policy: "hard".to_owned(),
        depth: "chain".to_owned(),
        error: None,
        lists: vec![RevocationListStatus {
            issuer: "CN=root".to_owned(),
            this_update: started,
            next_update: started + Duration::from_secs(7200),
            entries: 3,
        }],
    }
}

pub(crate) fn certificates() -> Certificates {
    let started = status().started;
    let good = CertificateStatus {
        workload: "web".to_owned(),
        identity: "spiffe://example.org/web".parse().unwrap(),
        source: "disk-ca".to_owned(),
        svid: status().workloads.remove(0).svid,
        next_renewal: Some(started + Duration::from_secs(1700)),
        renewals_succeeded: 4,
        renewals_failed: 1,
        error: None,
    };
    let bad = CertificateStatus {
        workload: "cache".to_owned(),
        identity: "spiffe://example.org/cache".parse().unwrap(),
        source: "files".to_owned(),
        svid: None,
        next_renewal: None,
        renewals_succeeded: 0,
        renewals_failed: 2,
        error: Some("/cache.pem: No such file or directory".to_owned()),
    };
    Certificates {
        certificates: vec![good, bad],
        roots: vec![RootStatus {
            trust_domain: "example.org".parse().unwrap(),
            subject: "CN=root".to_owned(),
            not_before: started,
            not_after: started + Duration::from_secs(864_000),
        }],
        revocation: vec![revocation()],
    }
}

pub(crate) fn failed() -> WorkloadStatus {
    WorkloadStatus {
        name: "cache".to_owned(),
        identity: "spiffe://example.org/cache".parse().unwrap(),
        place: Place::Unit("cache.service".to_owned()),
        state: WorkloadState::Failed {
            reason: Reason::PlaceNotFound,
            detail: "unit cache.service is not running".to_owned(),
        },
        svid: None,
        netns_cookie: None,
        addresses: vec!["10.0.1.5".parse().unwrap()],
        connections: 0,
        ..status().workloads.remove(0)
    }
}

pub(crate) fn connection() -> Connection {
    Connection {
        id: ConnectionId::from_digits("4bf92f3577b34da6a3ce929d0e0e4736").unwrap(),
        direction: ConnectionDirection::Outbound,
        stage: Stage::Open,
        workload: "web".to_owned(),
        source: Some("spiffe://example.org/web".parse().unwrap()),
        destination: Some("spiffe://example.org/db".parse().unwrap()),
        client: Some("10.0.1.4:41022".parse().unwrap()),
        original_dst: Some("10.0.2.7:5432".parse().unwrap()),
        peer: Some("10.0.2.7:15008".parse().unwrap()),
        to_server: 1234,
        to_client: 5_678_901,
        age: Duration::from_millis(83_500),
        worker: 0,
    }
}
