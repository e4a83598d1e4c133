//! `readiness-for-strict`: which workloads would lose whom if they turned
//! strict now, as far as the daemon has seen.

use crate::admin::client;
use crate::admin::reply::StrictReply;
use crate::admin::strict::{Loss, StrictReadiness};
use crate::admin::view::ConnectionDirection;

use super::arguments::Ask;
use super::humane::duration;
use super::table::table;
use super::{Exit, ask, socket};

pub(super) fn command(asked: &Ask) -> Exit {
    let socket = socket(&asked.socket);
    ask(asked.output, client::strict(&socket), show, judge)
}

fn judge(reply: &StrictReply) -> Exit {
    match reply.workloads.iter().all(|one| one.standing.is_ready()) {
        true => Exit::Done,
        false => Exit::Failed,
    }
}

fn show(reply: &StrictReply) -> String {
    const WORKLOADS: [&str; 5] = ["WORKLOAD", "MODE", "FOR STRICT", "WATCHED", "WOULD LOSE"];
    let rows = reply.workloads.iter().map(|one| {
        let StrictReadiness {
            workload,
            mode,
            standing,
            watched,
            losses,
        } = one;
        vec![
            workload.clone(),
            mode.to_string(),
            standing.word().to_owned(),
            duration(*watched),
            losses.len().to_string(),
        ]
    });
    let mut out = table(&WORKLOADS, rows);
    let losses = reply.workloads.iter().flat_map(|one| {
        let of = move |loss| (one.workload.as_str(), loss);
        one.losses.iter().map(of)
    });
    let losses: Vec<Vec<String>> = losses.map(row).collect();
    if !losses.is_empty() {
        const LOSSES: [&str; 7] = [
            "WORKLOAD",
            "WOULD LOSE",
            "ADDRESS",
            "KNOWN AS",
            "PORT",
            "CONNECTIONS",
            "LAST SEEN",
        ];
        out.push('\n');
        out.push_str(&table(&LOSSES, losses));
    }
    out
}

fn row((workload, loss): (&str, &Loss)) -> Vec<String> {
    let what = match loss.direction {
        ConnectionDirection::Inbound => "a caller",
        ConnectionDirection::Outbound => "a server",
    };
    let known_as = match &loss.identity {
        Some(id) => format!("{id} ({})", loss.known_as),
        None => loss.known_as.clone(),
    };
    vec![
        workload.to_owned(),
        what.to_owned(),
        loss.address.to_string(),
        known_as,
        loss.port.to_string(),
        loss.connections.to_string(),
        format!("{} ago", duration(loss.last_seen)),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::admin::strict::Standing;
    use crate::config::Mode;

    #[test]
    fn whom_a_workload_would_lose_is_told() {
        let loss = Loss {
            direction: ConnectionDirection::Inbound,
            address: "10.0.1.9".parse().unwrap(),
            identity: Some("spiffe://example.org/web".parse().unwrap()),
            known_as: "not_enrolled".to_owned(),
            port: 5432,
            connections: 12,
            last_seen: Duration::from_secs(61),
        };
        let db = StrictReadiness {
            workload: "db".to_owned(),
            mode: Mode::Permissive,
            standing: Standing::NotReady,
            watched: Duration::from_secs(7200),
            losses: vec![loss],
        };
        let web = StrictReadiness {
            workload: "web".to_owned(),
            standing: Standing::Ready,
            losses: Vec::new(),
            ..db.clone()
        };
        let mut reply = StrictReply {
            schema: 1,
            workloads: vec![db, web],
        };
        let shown = show(&reply);
        for word in [
            "not ready",
            "10.0.1.9",
            "5432",
            "spiffe://example.org/web (not_enrolled)",
        ] {
            assert!(shown.contains(word), "{word} is not in\n{shown}");
        }
        assert_eq!(judge(&reply), Exit::Failed);
        reply.workloads.remove(0);
        assert_eq!(judge(&reply), Exit::Done);
    }
}
