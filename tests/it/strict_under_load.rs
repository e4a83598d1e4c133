//! A running system goes from off to permissive to strict, and no connection
//! between its workloads fails on the way.

use mtls_tests::deadline::Deadline;
use mtls_tests::mesh::{Metrics, workloads};
use mtls_tests::player::Client;
use mtls_tests::script::{Connect, Step, mark};
use mtls_tests::two_nodes;
use mtls_tests::{Family, Mesh, Node, Plan, Pod, Result, Scene, ensure, play};

const SEED: u64 = 1;

#[test]
fn strict_under_load() -> Result {
    play("strict-under-load", |scene| {
        let mut cast = Cast::start(scene)?;
        let _echo = cast.server.serve(8080, [Step::Echo])?;
        // Open since before the daemons have a part in it.
        let to = cast.server.at(Family::V4, 8080);
        let script = [
            Step::Say("hi".into()),
            Step::Hear("hi".into()),
            Step::Hold,
            Step::ExpectEnd,
        ];
        let mut earlier = cast.client.connect_as(Connect::to(to, script))?;
        earlier.held()?;
        let mut load = cast.load()?;
        well(&mut load, 100)?;

        // The server's node first: whoever calls still does so in clear.
        let (a, b) = (cast.a.clone(), cast.b.clone());
        cast.server_mode = "permissive";
        cast.reload(&b)?;
        cast.carry_on(&mut load, |_, in_clear| in_clear > 100)?;
        // Then the client's, which knows that the server has a daemon now.
        cast.client_mode = "permissive";
        cast.reload(&a)?;
        cast.carry_on(&mut load, |tunnelled, _| tunnelled > 100)?;
        cast.server_knows_client = true;
        cast.reload(&b)?;
        let (tunnelled, before) = cast.carried()?;
        cast.carry_on(&mut load, |now, _| now > tunnelled + 100)?;

        (cast.client_mode, cast.server_mode) = ("strict", "strict");
        earlier.go()?;
        cast.reload(&a)?;
        cast.reload(&b)?;
        let cut = earlier.ended()?;
        let told = matches!(cut.error(), "ECONNRESET" | "ECONNABORTED");
        ensure(told, || format!("what is open in clear: {cut:?}"))?;
        let strict = b.capture_wire()?;
        let (tunnelled, _) = cast.carried()?;
        cast.carry_on(&mut load, |now, _| now > tunnelled + 300)?;
        let report = strict.finish()?;
        ensure(report.frames > 100, || report.to_string())?;
        report.ensure_absent(&[&mark(SEED)])?;
        let (_, after) = cast.carried()?;
        ensure(before == after, || "something still came in clear")?;
        load.process().kill()?;

        let seen = cast.mesh.wire()?.contains(&[&mark(SEED)])?;
        ensure(seen == [true], || "nothing was in clear, also while off")
    })
}

/// So many more connections end, and all of them well.
fn well(load: &mut Client, count: usize) -> Result {
    for _ in 0..count {
        let ended = load.ended()?;
        ensure(ended.is_well(), || format!("{ended:?}"))?;
    }
    Ok(())
}

struct Cast {
    mesh: Mesh,
    client: Pod,
    server: Pod,
    a: Node,
    b: Node,
    client_mode: &'static str,
    server_mode: &'static str,
    server_knows_client: bool,
}

impl Cast {
    fn start(scene: &Scene) -> Result<Self> {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let mut cast = Self {
            mesh: Mesh::prepare(Plan::of([&client, &server]), Default::default())?,
            client,
            server,
            a,
            b,
            client_mode: "off",
            server_mode: "off",
            server_knows_client: false,
        };
        cast.replan()?;
        cast.mesh.start_all()?;
        Ok(cast)
    }

    /// What the nodes' files say now.
    fn replan(&mut self) -> Result {
        let quoted = |mode: &str| format!("{mode:?}");
        let plan = Plan::of([&self.client, &self.server])
            .set_workload(&self.client, "mode", &quoted(self.client_mode))
            .set_workload(&self.server, "mode", &quoted(self.server_mode))
            .set_peer(
                &self.client,
                "enrolled",
                &self.server_knows_client.to_string(),
            )
            .set_peer(
                &self.server,
                "enrolled",
                &(self.client_mode != "off").to_string(),
            );
        self.mesh.replan(|_| plan)
    }

    /// Puts them in force at a node, and waits until its workload is ready.
    fn reload(&mut self, node: &Node) -> Result {
        self.replan()?;
        let daemon = self.mesh.daemon(node)?;
        let reloads =
            |metrics: &Metrics| metrics.count("mtls_config_reloads_total", &[("result", "ok")]);
        let before = reloads(&daemon.metrics()?);
        daemon.reload()?;
        daemon.wait_for_metrics("the reload", |metrics| reloads(metrics) > before)?;
        daemon.wait_for_metrics("the workload to be ready", |metrics| {
            metrics.count("mtls_workloads", &[("state", "ready")]) == 1
        })?;
        let status = daemon.status()?;
        let is_ready = workloads(&status).all(|workload| workload["state"] == "ready");
        ensure(is_ready, || status.to_string())
    }

    /// The load goes on, and all of it well, until so many of its connections
    /// came to the server in tunnels, or in clear.
    fn carry_on(&mut self, load: &mut Client, enough: impl Fn(u64, u64) -> bool) -> Result {
        let deadline = Deadline::default();
        loop {
            well(load, 20)?;
            let (tunnelled, in_clear) = self.carried()?;
            if enough(tunnelled, in_clear) {
                return Ok(());
            }
            ensure(!deadline.passed(), || {
                format!("{tunnelled} in tunnels and {in_clear} in clear")
            })?;
        }
    }

    /// How many connections came to the server in tunnels, and in clear.
    fn carried(&mut self) -> Result<(u64, u64)> {
        let metrics = self.mesh.daemon(&self.b)?.metrics()?;
        let labels = [("direction", "inbound"), ("result", "established")];
        let all = metrics.count("mtls_connections_total", &labels);
        let labels = [("direction", "inbound"), ("reason", "permissive")];
        let in_clear = metrics.count("mtls_plaintext_connections_total", &labels);
        Ok((all.saturating_sub(in_clear), in_clear))
    }

    /// Short connections without end, several at a time, over both families.
    fn load(&self) -> Result<Client> {
        let script = [Step::Exchange {
            bytes: 20_000,
            send: SEED,
            receive: SEED,
        }];
        let servers = Family::BOTH.map(|family| self.server.at(family, 8080));
        let task = Connect::to(servers[0], script)
            .to_each(&servers)
            .many(usize::MAX, 8);
        self.client.connect_as(task)
    }
}
