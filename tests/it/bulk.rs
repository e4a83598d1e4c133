//! 100 MiB each way at the same time, every byte compared, in both families.

use mtls_tests::script::Step;
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

const BYTES: u64 = 100 << 20;

#[test]
fn bulk_v4() -> Result {
    bulk("bulk-v4", Family::V4)
}

#[test]
fn bulk_v6() -> Result {
    bulk("bulk-v6", Family::V6)
}

fn bulk(label: &str, family: Family) -> Result {
    play(label, |scene| {
        let mut pair = Pair::start(scene)?;
        let exchange = |send, receive| Step::Exchange {
            bytes: BYTES,
            send,
            receive,
        };
        let mut server = pair.server.serve(8080, [exchange(2, 1), Step::ExpectEnd])?;
        let to = pair.server.at(family, 8080);
        let ended = pair.client.connect(to, [exchange(1, 2)])?;
        ensure(ended.is_well(), || format!("{ended:?}"))?;
        server.ended_well(1)?;

        let report = pair.ensure_private()?;
        ensure(report.inside() > 2 * BYTES, || report.to_string())?;
        // The operators' figures are those of the applications.
        for node in [pair.a.clone(), pair.b.clone()] {
            let name = node.name().to_owned();
            let line = pair
                .mesh
                .daemon(&node)?
                .wait_for_access("its end", |line| line["reason"] == "done")?;
            ensure_eq(line["bytes_to_server"].as_u64(), Some(BYTES), &name)?;
            ensure_eq(line["bytes_to_client"].as_u64(), Some(BYTES), &name)?;
        }
        Ok(())
    })
}
