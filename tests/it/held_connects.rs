//! Who waits in connect() for a peer that says nothing is told in the end:
//! within the limit, when the daemon dies meanwhile, and when as many wait as
//! may. Nobody is accepted in silence, and nobody hangs.

use std::time::Duration;

use mtls_tests::deadline::Stopwatch;
use mtls_tests::node::WIRE;
use mtls_tests::player::Client;
use mtls_tests::script::{Connect, Ended, Step};
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

/// Of 200 that connect at once.
const PLACES: usize = 64;
const AT_ONCE: usize = 200;
/// Two destinations: who is known to be away is refused for a second.
const DEAD: u16 = 8080;
const SILENT: u16 = 8081;
const ESTABLISH: Duration = Duration::from_secs(2);

#[test]
fn held_connects() -> Result {
    play("held-connects", |scene| {
        let mut pair = Pair::start_as(scene, |plan, _, _| {
            plan.set("limits", "establish", "\"2s\"").set(
                "limits",
                "pending_per_workload",
                &PLACES.to_string(),
            )
        })?;

        // The peer's daemon is dead: its node answers at once.
        pair.servers_daemon()?.kill()?;
        for family in Family::BOTH {
            refused(waiting(&pair, family, DEAD, 1)?.ended()?, ESTABLISH)?;
        }
        pair.servers_daemon()?.start()?;

        // Nobody answers: 64 wait for the limit, the others are refused at once.
        pair.b.netns().ip(&format!("link set {WIRE} down\n"))?;
        for family in Family::BOTH {
            let watch = Stopwatch::start();
            let mut at_once = 0;
            for ended in waiting(&pair, family, SILENT, AT_ONCE)?.ended_all()? {
                at_once += usize::from(took(&ended) < ESTABLISH / 2);
                refused(ended, ESTABLISH + Duration::from_secs(3))?;
            }
            ensure(at_once >= AT_ONCE - PLACES, || {
                format!("{at_once} were refused at once")
            })?;
            ensure(watch.elapsed() >= ESTABLISH, || {
                format!("all were refused after {:?}", watch.elapsed())
            })?;
        }
        let metrics = pair.clients_daemon()?.metrics()?;
        let held = |result| metrics.count("mtls_held_connects_total", &[("result", result)]);
        ensure_eq(held("released"), 0, "connections that were let go")?;
        ensure_eq(held("timed_out"), 2 * PLACES as u64, "that timed out")?;

        // Killed while it holds one: the SYN that comes again is refused.
        let before = captured(&mut pair)?;
        let mut waits = waiting(&pair, Family::V4, SILENT, 1)?;
        pair.clients_daemon()?
            .wait_for_metrics("a connection that is held", |metrics| {
                metrics.count("mtls_hook_events_total", &HELD) > before
            })?;
        pair.clients_daemon()?.kill()?;
        refused(waits.ended()?, Duration::from_secs(4))
    })
}

const HELD: [(&str, &str); 2] = [("hook", "cgroup_egress"), ("outcome", "held")];

fn captured(pair: &mut Pair) -> Result<u64> {
    let metrics = pair.clients_daemon()?.metrics()?;
    Ok(metrics.count("mtls_hook_events_total", &HELD))
}

fn waiting(pair: &Pair, family: Family, port: u16, count: usize) -> Result<Client> {
    let to = pair.server.at(family, port);
    let task = Connect::to(to, [Step::ExpectEnd]).many(count, count);
    pair.client.connect_as(task)
}

fn refused(ended: Ended, within: Duration) -> Result {
    ensure(ended.failed_to_connect(), || format!("{ended:?}"))?;
    ensure_eq(ended.error(), "ECONNREFUSED", "what connect() says")?;
    ensure(took(&ended) <= within, || format!("too late: {ended:?}"))
}

fn took(ended: &Ended) -> Duration {
    Duration::from_micros(ended.connect_micros)
}
