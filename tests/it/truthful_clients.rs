//! Programs that decide by connect() behave as on a bare network: a loop that
//! waits for a port, a client of several hosts, one of two address families.

use mtls_tests::apps::Postgres;
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::{Family, Mesh, Plan, Pod, Result, ensure, ensure_eq, play, two_nodes};

const PORT: u16 = 5432;

#[test]
fn truthful_clients() -> Result {
    play("truthful-clients", |scene| {
        let (a, b) = two_nodes(scene)?;
        let client = a.pod("client")?;
        let (first, second) = (b.pod("first")?, b.pod("second")?);
        let mut mesh = Mesh::start_as(Plan::of([&client, &first, &second]))?;

        for family in Family::BOTH {
            ensure(!is_open(&client, &second, family)?, || {
                format!("{family:?}: open before anybody listens")
            })?;
        }
        let postgres = Postgres::start(&second, PORT)?;
        for family in Family::BOTH {
            wait_for(
                Deadline::default(),
                || "the port to be open".to_owned(),
                || Ok(is_open(&client, &second, family)?.then_some(())),
            )?;
        }

        // libpq takes the second host, and so it does of the other family's.
        let of = |pod: &Pod, family| pod.address(family).to_string();
        for hosts in [
            [of(&first, Family::V4), of(&second, Family::V4)],
            [of(&first, Family::V6), of(&second, Family::V6)],
            [of(&first, Family::V6), of(&second, Family::V4)],
        ] {
            let hosts = hosts.join(",");
            let url = format!("host={hosts} port={PORT},{PORT} user=postgres dbname=postgres");
            let words = ["-At", "-c", "select 41 + 1", &url];
            let said = client.run("psql", words)?.success()?;
            ensure_eq(said.trim(), "42", &hosts)?;
        }
        drop(postgres);
        mesh.wire()?.ensure_only_tls()
    })
}

/// What `nc -z` asks: whether connect() succeeds.
fn is_open(from: &Pod, to: &Pod, family: Family) -> Result<bool> {
    let ask = format!("exec 3<>/dev/tcp/{}/{PORT}", to.address(family));
    Ok(from.run("bash", ["-c", &ask])?.status.success())
}
