//! Some protocols begin with the server: the client must hear it before it
//! has said a word.

use mtls_tests::script::Step;
use mtls_tests::{Family, Pair, Result, ensure, play};

#[test]
fn server_speaks_first() -> Result {
    play("server-speaks-first", |scene| {
        let mut pair = Pair::start(scene)?;
        let greeting = "220 mail.example.org ready\r\n".to_owned();
        let mut server = pair.server.serve(
            2525,
            [Step::Say(greeting.clone()), Step::Hear("QUIT\r\n".into())],
        )?;
        for family in Family::BOTH {
            let script = [Step::Hear(greeting.clone()), Step::Say("QUIT\r\n".into())];
            let ended = pair.client.connect(pair.server.at(family, 2525), script)?;
            ensure(ended.is_well(), || format!("{ended:?}"))?;
            server.ended_well(1)?;
        }
        let report = pair.ensure_private()?;
        report.ensure_absent(&[b"mail.example.org", b"QUIT"])
    })
}
