//! `connections`: who talks to whom, now.

use std::net::SocketAddr;

use crate::admin::client;
use crate::admin::reply::ConnectionsReply;
use crate::admin::view::{Connection, ConnectionDirection, Stage};
use crate::spiffe::SpiffeId;

use super::arguments::Connections;
use super::humane::{bytes, duration};
use super::table::table;
use super::{Exit, ask, socket};

pub(super) fn command(asked: &Connections) -> Exit {
    let socket = socket(&asked.ask.socket);
    ask(
        asked.ask.output,
        client::connections(&socket),
        |reply| show(reply, asked.workload.as_deref()),
        |_| Exit::Done,
    )
}

/// Oldest first.
fn show(reply: &ConnectionsReply, workload: Option<&str>) -> String {
    const HEAD: [&str; 11] = [
        "DIRECTION",
        "WORKLOAD",
        "CLIENT",
        "DESTINATION",
        "FROM",
        "TO",
        "TO SERVER",
        "TO CLIENT",
        "AGE",
        "STAGE",
        "ID",
    ];
    let mut connections: Vec<&Connection> = reply
        .connections
        .iter()
        .filter(|connection| workload.is_none_or(|name| connection.workload == name))
        .collect();
    if connections.is_empty() {
        return "no connections\n".to_owned();
    }
    connections.sort_by_key(|connection| std::cmp::Reverse(connection.age));
    let rows = connections.into_iter().map(|connection| {
        let direction = match connection.direction {
            ConnectionDirection::Outbound => "outbound",
            ConnectionDirection::Inbound => "inbound",
        };
        let stage = match connection.stage {
            Stage::Establishing => "establishing",
            Stage::Open => "open",
        };
        vec![
            direction.to_owned(),
            connection.workload.clone(),
            address(connection.client),
            address(connection.original_dst),
            identity(connection.source.as_ref()),
            identity(connection.destination.as_ref()),
            bytes(connection.to_server),
            bytes(connection.to_client),
            duration(connection.age),
            stage.to_owned(),
            connection.id.to_string(),
        ]
    });
    table(&HEAD, rows)
}

fn address(address: Option<SocketAddr>) -> String {
    address.map_or_else(|| "-".to_owned(), |address| address.to_string())
}

fn identity(id: Option<&SpiffeId>) -> String {
    id.map_or_else(|| "-".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::admin::reply::SCHEMA;
    use crate::admin::samples;

    #[test]
    fn the_oldest_comes_first() {
        let young = Connection {
            client: None,
            destination: None,
            stage: Stage::Establishing,
            age: Duration::from_millis(20),
            ..samples::connection()
        };
        let reply = ConnectionsReply {
            schema: SCHEMA,
            time: UNIX_EPOCH,
            connections: vec![young, samples::connection()],
        };
        assert_eq!(
            show(&reply, None),
            "\
DIRECTION  WORKLOAD  CLIENT          DESTINATION    FROM                      TO                       TO SERVER  TO CLIENT  AGE     STAGE         ID
outbound   web       10.0.1.4:41022  10.0.2.7:5432  spiffe://example.org/web  spiffe://example.org/db  1.2 KiB    5.4 MiB    1m 23s  open          4bf92f3577b34da6a3ce929d0e0e4736
outbound   web       -               10.0.2.7:5432  spiffe://example.org/web  -                        1.2 KiB    5.4 MiB    20ms    establishing  4bf92f3577b34da6a3ce929d0e0e4736
"
        );
        assert_eq!(show(&reply, Some("db")), "no connections\n");
    }
}
