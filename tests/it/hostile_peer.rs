//! A peer with a valid certificate, where the directory knows it, abuses
//! HTTP/2: resets, PINGs, header blocks and padding without end, and windows
//! that it never opens. Each costs it its tunnel, is counted, and costs the
//! honest peer beside it nothing. So does each stage at which it can stop.

use std::fs;
use std::path::PathBuf;

use mtls_tests::error::Doing;
use mtls_tests::mesh::Leaf;
use mtls_tests::player::Client;
use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Pair, Plan, Pod, Result, Scene, ensure, play, two_nodes};

#[test]
fn hostile_peer() -> Result {
    play("hostile-peer", |scene| {
        let mut cast = Cast::start(scene)?;
        for (name, fault, bytes) in abuses(&cast.authority()) {
            cast.attack(name, fault, &bytes)?;
        }
        cast.end()
    })
}

#[test]
fn peer_that_stops_at_every_stage() -> Result {
    play("slow-peer", |scene| {
        let mut cast = Cast::start(scene)?;
        let hello = [0x16, 3, 1, 1, 0x20, 1, 0, 1, 0x1c, 3, 3];
        let hello: String = hello.iter().map(|byte| char::from(*byte)).collect();
        let stages = [vec![], vec![Step::Say(hello)]];
        for family in Family::BOTH {
            for said in &stages {
                let script = [&said[..], &[Step::ExpectEnd]].concat();
                let to = cast.pair.server.at(family, 15008);
                let many = Connect::to(to, script).many(20, 20);
                for ended in cast.hostile.connect_as(many)?.ended_all()? {
                    ensure(!ended.failed_to_connect(), || {
                        format!("{said:?}: {ended:?}")
                    })?;
                }
                cast.go_on()?;
            }
        }
        let failed = [("direction", "inbound"), ("reason", "timeout")];
        cast.pair
            .servers_daemon()?
            .wait_for_metrics("handshakes that took too long", |metrics| {
                metrics.count("mtls_handshake_failures_total", &failed) >= 80
            })?;

        // In TLS, and then nothing more.
        let greeting = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        let request = head(&cast.authority());
        let half = frame(HEADERS, 0, 1, &request);
        let whole = frame(HEADERS, END_HEADERS, 1, &request);
        for (stage, bytes) in [
            ("after the handshake", vec![]),
            ("in the preface", PREFACE[..9].to_vec()),
            ("after the greeting", greeting.clone()),
            ("in a header block", [&greeting[..], &half].concat()),
            ("with a stream", [&greeting[..], &whole].concat()),
        ] {
            cast.attack(stage, "silent", &bytes)?;
        }
        // Beginnings of a greeting that a stranger made up are no TLS.
        drop(cast.stream);
        cast.pair.mesh.wire()?.ensure_absent(&[MARK])
    })
}

/// How a tunnel is abused, and what that is counted as.
fn abuses(authority: &str) -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let request = head(authority);
    let greeting = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let flood = |make: &dyn Fn(u32) -> Vec<u8>| {
        let frames = (0..5_000).flat_map(make);
        greeting.iter().copied().chain(frames).collect::<Vec<u8>>()
    };
    let open = |stream| frame(HEADERS, END_HEADERS, stream, &request);
    // 80 KB of headers in 4 KB, by the table that exists until our SETTINGS
    // are known, which this peer never acknowledges.
    let mut bomb = request.clone();
    bomb.extend(b"\x40\x01x\x7f\xa1\x1e");
    bomb.extend([b'y'; 4_000]);
    bomb.extend([0xbe; 20]);
    let mut no_window = [PREFACE, &frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])].concat();
    no_window.extend((0..200).flat_map(|n| open(2 * n + 1)));
    vec![
        (
            "rapid reset",
            "flood",
            flood(&|n| {
                let reset = frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8]);
                [open(2 * n + 1), reset].concat()
            }),
        ),
        ("PINGs", "flood", flood(&|_| frame(PING, 0, 0, &[0; 8]))),
        (
            "SETTINGS",
            "flood",
            flood(&|_| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1])),
        ),
        (
            "CONTINUATION",
            "flood",
            flood(&|n| match n {
                0 => frame(HEADERS, 0, 1, &request),
                _ => frame(CONTINUATION, 0, 1, &[]),
            }),
        ),
        (
            "HPACK bombs",
            "flood",
            flood(&|n| frame(HEADERS, END_HEADERS, 2 * n + 1, &bomb)),
        ),
        (
            "empty DATA",
            "flood",
            flood(&|n| match n {
                0 => open(1),
                _ => frame(DATA, 0, 1, &[]),
            }),
        ),
        (
            "a table that is not there",
            "protocol",
            [
                greeting.clone(),
                frame(HEADERS, END_HEADERS, 1, b"\xff\xff\x7f"),
            ]
            .concat(),
        ),
        ("windows that stay shut", "silent", no_window),
    ]
}

/// An honest pair, and a hostile peer on the client's node.
struct Cast {
    pair: Pair,
    hostile: Pod,
    leaf: Leaf,
    frames: PathBuf,
    stream: Client,
    faults: u64,
    _listening: mtls_tests::player::Server,
}

impl Cast {
    fn start(scene: &Scene) -> Result<Self> {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let hostile = a.outsider("hostile")?;
        let plan = Plan::of([&client, &server])
            .set("limits", "handshake", "\"500ms\"")
            .set("limits", "ping_interval", "\"1s\"")
            .set("limits", "ping_timeout", "\"2s\"")
            .append(&b, &known(&hostile));
        let pair = Pair {
            mesh: mtls_tests::Mesh::start_as(plan)?,
            client,
            server,
            a,
            b,
        };
        let leaf = pair
            .mesh
            .ca()
            .leaf("hostile", "spiffe://example.org/hostile")?;
        let listening = pair.server.serve(8080, [Step::Echo])?;
        // Two exchanges an attack are more than enough.
        let exchanges = (0..100).flat_map(|seed| {
            let bytes = 64 << 10;
            let talk = [Step::Send { bytes, seed }, Step::Receive { bytes, seed }];
            [Step::Hold].into_iter().chain(talk)
        });
        let to = pair.server.at(Family::V4, 8080);
        let task = Connect::to(to, exchanges.collect::<Vec<_>>());
        let mut stream = pair.client.connect_as(task)?;
        stream.held()?;
        Ok(Self {
            frames: scene.dir().join("frames"),
            pair,
            hostile,
            leaf,
            stream,
            faults: 0,
            _listening: listening,
        })
    }

    fn authority(&self) -> String {
        self.pair.server.at(Family::V4, 8080).to_string()
    }

    /// Says that in a tunnel of its own, until that is ended.
    fn attack(&mut self, name: &str, fault: &str, bytes: &[u8]) -> Result {
        fs::write(&self.frames, bytes).doing(|| "writing frames")?;
        let peer = r#"
            (cat "$1"; sleep 30) | openssl s_client -quiet -tls1_3 -alpn h2 \
                -connect "$2" -cert "$3" -key "$4" -CAfile "$5"
        "#;
        let to = self.pair.server.at(Family::V4, 15008).to_string();
        let leaf = &self.leaf;
        let mut hostile = self
            .hostile
            .spawn("sh")?
            .args(["-c", peer, "sh"])
            .arg(&self.frames)
            .arg(to)
            .args([&leaf.certificate, &leaf.key, &leaf.bundle])
            .start()?;
        self.faults += 1;
        let faults = self.faults;
        let ended = self
            .pair
            .servers_daemon()?
            .wait_for_metrics(name, |metrics| {
                metrics.sum("mtls_tunnel_faults_total", &[("direction", "inbound")])
                    >= faults as f64
                    && metrics
                        .above_zero("mtls_tunnel_faults_total", "fault")
                        .iter()
                        .any(|f| f == fault)
            });
        hostile.kill()?;
        ended?;
        self.go_on()
    }

    /// The honest stream goes on, and a new connection comes.
    fn go_on(&mut self) -> Result {
        self.stream.go()?;
        self.stream.held()?;
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        let to = self.pair.server.at(Family::V6, 8080);
        let ended = self.pair.client.connect(to, hello)?;
        ensure(ended.is_well(), || format!("an honest client: {ended:?}"))
    }

    fn end(mut self) -> Result {
        drop(self.stream);
        self.pair.ensure_nothing_in_clear().map(drop)
    }
}

fn known(pod: &Pod) -> String {
    let name = pod.name();
    let [v4, v6] = pod.addresses();
    format!(
        "[[peer]]\nname = \"{name}\"\nspiffe_id = \"spiffe://example.org/{name}\"\n\
         addresses = [\"{v4}\", \"{v6}\"]\n"
    )
}

/// At the head of everything that the honest ones say.
const MARK: &[u8] = b"mtls-tests-plaintext-";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A CONNECT, in literals.
fn head(authority: &str) -> Vec<u8> {
    let mut head = b"\x02\x07CONNECT\x01".to_vec();
    head.push(u8::try_from(authority.len()).unwrap_or(0));
    head.extend(authority.as_bytes());
    head
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}
