//! A reload takes what is new and good, and nothing of a file with a mistake.

use mtls_tests::script::Step;
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

#[test]
fn configuration_reload() -> Result {
    play("reload", |scene| {
        let mut pair = Pair::start(scene)?;
        let stranger = pair.a.outsider("monitoring")?;
        let _server = pair.server.serve(9100, [Step::Echo])?;
        let to = pair.server.at(Family::V4, 9100);
        let script = [Step::Say("hi".into()), Step::Hear("hi".into())];
        let refused = stranger.connect(to, script.clone())?;
        ensure_eq(refused.error(), "ECONNREFUSED", "before")?;

        // A mistake: everything stays as it is.
        let daemon = pair.servers_daemon()?;
        let good = daemon.configuration()?;
        daemon.configure(&good.replace("[node]", "[nodee]"))?;
        daemon.reload()?;
        daemon.wait_for_metrics("a refused reload", |metrics| {
            metrics.count("mtls_config_reloads_total", &[("result", "error")]) == 1
        })?;
        daemon.wait_for_log("the mistake, by name", |event| {
            event.to_string().contains("nodee")
        })?;
        let ended = pair.client.connect(to, script.clone())?;
        ensure(ended.is_well(), || format!("after the mistake: {ended:?}"))?;

        // A change: it takes effect without a restart.
        let daemon = pair.servers_daemon()?;
        daemon.configure(&good.replace(
            "[network]\n",
            "[network]\nexcluded_inbound_ports = [9100]\n",
        ))?;
        daemon.reload()?;
        daemon.wait_for_metrics("a good reload", |metrics| {
            metrics.count("mtls_config_reloads_total", &[("result", "ok")]) == 1
        })?;
        let ended = stranger.connect(to, script)?;
        ensure(ended.is_well(), || format!("after the change: {ended:?}"))
    })
}
