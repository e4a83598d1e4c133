//! Who may call whom: policies from a folder, changed while connections are
//! open, and a mistake that changes nothing.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use mtls_tests::deadline::{Deadline, Stopwatch, wait_for};
use mtls_tests::mesh::Daemon;
use mtls_tests::player::Client;
use mtls_tests::script::{Connect, Step};
use mtls_tests::two_nodes;
use mtls_tests::{Error, Family, Mesh, Node, Plan, Pod, Result, Scene, ensure, ensure_eq, play};

/// From the change of a file to the cut: what the daemon promises. A machine that
/// has much else to do may miss it, but not each time.
const CUT_WITHIN: Duration = Duration::from_secs(1);
const TRIES: usize = 5;

#[test]
fn policy() -> Result {
    play("policy", |scene| {
        let mut cast = Cast::start(scene)?;
        let to = cast.server.at(Family::V4, 5432);
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];

        // No policy: both are let in.
        let ended = cast.friend.connect(to, hello.clone())?;
        ensure(ended.is_well(), || {
            format!("a friend without a policy: {ended:?}")
        })?;

        // The friend may, nobody else: what the stranger has open is cut.
        let mut fastest = cast.cut_the_stranger()?;
        for _ in 1..TRIES {
            if fastest <= CUT_WITHIN {
                break;
            }
            cast.write(&allowing("*"))?;
            cast.wait_for_the_stranger()?;
            fastest = fastest.min(cast.cut_the_stranger()?);
        }
        ensure(fastest <= CUT_WITHIN, || format!("cut after {fastest:?}"))?;
        let labels = [("direction", "inbound"), ("reason", "not_authorised")];
        let daemon = cast.daemon()?;
        daemon.wait_for_metrics("the cut connection", |metrics| {
            metrics.count("mtls_connections_ended_total", &labels) >= 1
        })?;
        let ended = cast.friend.connect(to, hello.clone())?;
        ensure(ended.is_well(), || format!("an allowed friend: {ended:?}"))?;
        for family in Family::BOTH {
            let refused = cast
                .stranger
                .connect(cast.server.at(family, 5432), hello.clone())?;
            let told = matches!(refused.error(), "ECONNRESET" | "ECONNREFUSED");
            ensure(told, || format!("a stranger: {refused:?}"))?;
        }
        let daemon = cast.daemon()?;
        let record = daemon.wait_for_access("a refusal", |record| {
            record["reason"] == "not_authorised" && record["rule"] == "no_rule"
        })?;
        ensure_eq(
            &record["source"],
            &"spiffe://example.org/stranger".into(),
            "who was refused",
        )?;
        daemon.wait_for_access("an admission", |record| record["rule"] == "callers[0]")?;
        daemon.wait_for_metrics("decisions by rule", |metrics| {
            let count = |rule, decision| {
                let labels = [("rule", rule), ("decision", decision)];
                metrics.count("mtls_policy_decisions_total", &labels)
            };
            count("callers[0]", "allowed") >= 1 && count("no_rule", "denied") >= 2
        })?;

        // A mistake changes nothing, and is told with its place.
        cast.write("version = 1\n[[authorization-policy]]\nname = \"x\"\npaths = [\"/\"]\n")?;
        let daemon = cast.daemon()?;
        daemon.wait_for_log("the mistake's place", |event| {
            event.to_string().contains("callers.toml:4:1: paths")
        })?;
        let ended = cast.friend.connect(to, hello.clone())?;
        ensure(ended.is_well(), || format!("after a mistake: {ended:?}"))?;
        let refused = cast.stranger.connect(to, hello.clone())?;
        ensure(!refused.is_well(), || "a stranger after a mistake")?;

        // Now the other way round.
        cast.write(&allowing("spiffe://example.org/stranger"))?;
        cast.wait_for_the_stranger()?;
        let refused = cast.friend.connect(to, hello)?;
        ensure(!refused.is_well(), || "a friend no more")?;
        cast.mesh.wire()?.ensure_only_tls()
    })
}

/// One server and two clients, and a folder of policies at the server's node.
struct Cast {
    mesh: Mesh,
    friend: Pod,
    stranger: Pod,
    server: Pod,
    b: Node,
    policies: PathBuf,
    _listening: mtls_tests::player::Server,
}

impl Cast {
    fn start(scene: &Scene) -> Result<Self> {
        let (a, b) = two_nodes(scene)?;
        let (friend, stranger) = (a.pod("friend")?, a.pod("stranger")?);
        let server = b.pod("server")?;
        let policies = scene.data("policy.d")?;
        let folder = format!("{:?}", policies.to_string_lossy());
        let plan = Plan::of([&friend, &stranger, &server]);
        let plan = plan.set_on(&b, "policy", "directory", &folder);
        let mesh = Mesh::start_as(plan)?;
        let listening = server.serve(5432, [Step::Echo])?;
        Ok(Self {
            mesh,
            friend,
            stranger,
            server,
            b,
            policies,
            _listening: listening,
        })
    }

    fn daemon(&mut self) -> Result<&mut Daemon> {
        self.mesh.daemon(&self.b)
    }

    /// As careful people change a file: beside it, and renamed over it.
    fn write(&self, text: &str) -> Result {
        let new = self.policies.join(".callers.toml.new");
        let written = fs::write(&new, text)
            .and_then(|()| fs::rename(&new, self.policies.join("callers.toml")));
        written.map_err(|error| Error::Unexpected(format!("writing a policy: {error}")))
    }

    /// The time from a change that lets in the friend alone to the end of what
    /// the stranger has open.
    fn cut_the_stranger(&self) -> Result<Duration> {
        let mut held = self.hold()?;
        held.go()?;
        let since = Stopwatch::start();
        self.write(&allowing("spiffe://example.org/friend"))?;
        let cut = held.ended()?;
        ensure_eq(cut.error(), "ECONNRESET", "the stranger's open connection")?;
        Ok(since.elapsed())
    }

    fn wait_for_the_stranger(&self) -> Result {
        let to = self.server.at(Family::V4, 5432);
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        let let_in = || Ok(self.stranger.connect(to, hello.clone())?.is_well());
        wait_for(
            Deadline::default(),
            || "the stranger to be let in",
            || Ok(let_in()?.then_some(())),
        )
    }

    /// A connection of the stranger that waits for its end.
    fn hold(&self) -> Result<Client> {
        let script = [
            Step::Say("hi".into()),
            Step::Hear("hi".into()),
            Step::Hold,
            Step::ExpectEnd,
        ];
        let to = self.server.at(Family::V4, 5432);
        let mut held = self.stranger.connect_as(Connect::to(to, script))?;
        held.held()?;
        Ok(held)
    }
}

fn allowing(principal: &str) -> String {
    format!(
        "version = 1\n\
         [[authorization-policy]]\n\
         name = \"callers\"\n\
         workloads = [\"server\"]\n\
         rules = [{{ from = [{{ principals = [\"{principal}\"] }}], to = [{{ ports = [5432] }}] }}]\n"
    )
}
