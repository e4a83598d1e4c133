//! UDP is not carried: it passes in clear or is refused, as configured.

use mtls_tests::script::UdpHow;
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

#[test]
fn udp_passes() -> Result {
    play("udp-passes", |scene| {
        let pair = Pair::start(scene)?;
        let _echo = pair.server.udp_echo(5353)?;
        for family in Family::BOTH {
            for how in [UdpHow::Connected, UdpHow::SendTo] {
                let to = pair.server.at(family, 5353);
                ensure_eq(pair.client.udp_ask(to, how)?, Ok(to), "who answers")?;
            }
        }
        Ok(())
    })
}

#[test]
fn udp_is_refused() -> Result {
    play("udp-refused", |scene| {
        let mut pair =
            Pair::start_as(scene, |plan, _, _| plan.set("network", "udp", "\"refuse\""))?;
        let _echo = pair.server.udp_echo(5353)?;
        for family in Family::BOTH {
            for how in [UdpHow::Connected, UdpHow::SendTo] {
                let to = pair.server.at(family, 5353);
                let answer = pair.client.udp_ask(to, how)?;
                ensure(answer.is_err(), || format!("{how:?} to {to}: {answer:?}"))?;
            }
        }
        let report = pair.ensure_nothing_in_clear()?;
        ensure_eq(report.other.get("UDP"), None, "datagrams on the wire")
    })
}
