//! What `policy test` says is what happens: random policies, a few at a time,
//! and for each of them connections through real daemons.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::Daemon;
use mtls_tests::player::Server;
use mtls_tests::script::{Serve, Step};
use mtls_tests::{Error, Family, Mesh, Plan, Pod, Result, ensure, ensure_eq, play, two_nodes};

const SETS: u16 = 20;
/// Ports of one set; no two sets share one, for a client's kernel remembers a
/// refusal for a second.
const PORTS: u16 = 5;
const FIRST_PORT: u16 = 7000;

#[test]
fn policy_test_says_what_happens() -> Result {
    play("policy-agrees", |scene| {
        let (a, b) = two_nodes(scene)?;
        let clients = [a.pod("one")?, a.pod("two")?];
        let server = b.pod("server")?;
        let folder = scene.data("policy.d")?;
        let quoted = format!("{:?}", folder.to_string_lossy());
        let plan = Plan::of([&clients[0], &clients[1], &server]);
        let mut mesh = Mesh::start_as(plan.set_on(&b, "policy", "directory", &quoted))?;
        let _listening = listen(&server)?;

        let mut dice = Dice(0x2545_f491_4f6c_dd1d);
        let mut verdicts = BTreeSet::new();
        for set in 0..SETS {
            let text = policies(&mut dice, set, &clients);
            put(&folder, &text)?;
            let daemon = mesh.daemon(&b)?;
            wait_until_in_force(daemon, set)?;
            for nth in 0..PORTS {
                let port = FIRST_PORT + set * PORTS + nth;
                for client in &clients {
                    let (allowed, rule) = ask(mesh.daemon(&b)?, client, port)?;
                    let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
                    let ended = client.connect(server.at(Family::V4, port), hello)?;
                    ensure_eq(ended.is_well(), allowed, "what policy test said")
                        .map_err(|e| told(&e, client, port, &rule, &text))?;
                    verdicts.insert((allowed, rule));
                }
            }
        }
        // The dice were not loaded.
        for allowed in [true, false] {
            let by = verdicts.iter().filter(|(was, _)| *was == allowed).count();
            ensure(by >= 3, || format!("{allowed} was said by {by} rules only"))?;
        }
        mesh.wire()?.ensure_only_tls()
    })
}

fn told(error: &Error, client: &Pod, port: u16, rule: &str, text: &str) -> Error {
    let who = client.name();
    Error::Unexpected(format!(
        "{error}: {who} to port {port}, by {rule}, under\n{text}"
    ))
}

fn listen(server: &Pod) -> Result<Server> {
    let mut task = Serve::on(FIRST_PORT, [Step::Echo]);
    task.listen = (FIRST_PORT..FIRST_PORT + SETS * PORTS)
        .map(|port| server.at(Family::V4, port))
        .collect();
    server.serve_as(task)
}

/// The daemon's answer: whether, and by which rule.
fn ask(daemon: &Daemon, client: &Pod, port: u16) -> Result<(bool, String)> {
    let answer = policy_test(daemon, client.name(), port)?;
    let allowed = answer["allowed"].as_bool();
    let rule = answer["rule"].as_str().unwrap_or_default().to_owned();
    Ok((allowed.ok_or_else(|| unreadable(&answer))?, rule))
}

fn unreadable(answer: &Value) -> Error {
    Error::Unexpected(format!("policy test said {answer}"))
}

fn policy_test(daemon: &Daemon, from: &str, port: u16) -> Result<Value> {
    let from = format!("spiffe://example.org/{from}");
    let (to, socket) = (format!("server:{port}"), daemon.admin_socket());
    let question = [
        "policy", "test", "--from", &from, "--to", &to, "--socket", &socket,
    ];
    let answer = daemon.command(&[&question[..], &["--output", "json"]].concat())?;
    serde_json::from_str(&answer.stdout)
        .map_err(|error| Error::Unexpected(format!("{error}: {}{}", answer.stdout, answer.stderr)))
}

/// Each set has a policy by which it is known, and which no port meets.
fn wait_until_in_force(daemon: &Daemon, set: u16) -> Result {
    let marker = format!("set-{set}[0]");
    wait_for(
        Deadline::default(),
        || format!("{marker} to be in force"),
        || {
            let answer = policy_test(daemon, "one", FIRST_PORT)?;
            let steps = answer["steps"].as_array().into_iter().flatten();
            let mut rules = steps.map(|step| &step["rule"]);
            Ok(rules.any(|rule| *rule == marker.as_str()).then_some(()))
        },
    )
}

fn put(folder: &Path, text: &str) -> Result {
    let new = folder.join(".policies.toml.new");
    let written =
        fs::write(&new, text).and_then(|()| fs::rename(&new, folder.join("policies.toml")));
    written.map_err(|error| Error::Unexpected(format!("writing policies: {error}")))
}

fn policies(dice: &mut Dice, set: u16, clients: &[Pod; 2]) -> String {
    let mut text = format!(
        "version = 1\n[[authorization-policy]]\nname = \"set-{set}\"\naction = \"DENY\"\n\
         rules = [{{ to = [{{ ports = [1] }}] }}]\n"
    );
    for nth in 0..=dice.below(2) {
        let action = *dice.one(&["ALLOW", "ALLOW", "DENY"]);
        let dry_run = dice.below(5) == 0;
        let workloads = *dice.one(&["server", "server", "spiffe://example.org/*", "one"]);
        let _ = writeln!(
            text,
            "[[authorization-policy]]\nname = \"p{set}-{nth}\"\naction = \"{action}\"\n\
             dry_run = {dry_run}\nworkloads = [\"{workloads}\"]"
        );
        for _ in 0..=dice.below(1) {
            text.push_str("[[authorization-policy.rules]]\n");
            if dice.below(4) > 0 {
                let _ = writeln!(text, "from = [{{ {} }}]", source(dice, clients));
            }
            if dice.below(3) > 0 {
                let key = *dice.one(&["ports", "not_ports"]);
                let ports = [0; 2].map(|_: u16| {
                    let nth = u16::try_from(dice.below(u64::from(PORTS) - 1)).unwrap_or(0);
                    FIRST_PORT + set * PORTS + nth
                });
                let _ = writeln!(text, "to = [{{ {key} = {ports:?} }}]");
            }
        }
    }
    text
}

fn source(dice: &mut Dice, clients: &[Pod; 2]) -> String {
    let not = *dice.one(&["", "", "not_"]);
    if dice.below(2) == 0 {
        let block = format!("{}/32", dice.one(clients).address(Family::V4));
        let block = dice.one(&[block, "10.0.0.0/8".to_owned()]).clone();
        return format!("{not}ip_blocks = [\"{block}\"]");
    }
    let id = *dice.one(&[
        "spiffe://example.org/one",
        "example.org/two",
        "*/one",
        "example.org/*",
        "spiffe://other.org/*",
        "*",
    ]);
    format!("{not}principals = [\"{id}\"]")
}

/// The same throws each time: xorshift64*.
struct Dice(u64);

impl Dice {
    /// 0 to `most`, both included.
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % (most + 1)
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let most = of.len() as u64 - 1;
        &of[usize::try_from(self.below(most)).unwrap_or(0)]
    }
}
