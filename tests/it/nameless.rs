//! A network namespace loses its name while processes live in it. Nobody finds
//! it any more, and `unknown = "pass"` is no way out for what runs in it: it
//! stays refused until the kernel has freed it, or the operator gives it up.

use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::workloads;
use mtls_tests::script::Step;
use mtls_tests::{
    Family, Mesh, Node, Plan, Pod, Result, Scene, ensure, ensure_eq, play, two_nodes,
};

#[test]
fn nameless_namespace_stays_refused() -> Result {
    for restart in [false, true] {
        play("nameless", |scene| {
            let mut story = Story::begin(scene)?;
            story.client.netns().unname()?;
            story.wait_until_absent()?;
            story.ensure_refused("without a name")?;
            if restart {
                story.mesh.daemon(&story.a)?.kill()?;
                story.ensure_refused("without a daemon")?;
                story.start_daemon()?;
                story.ensure_refused("after a restart")?;
            }

            // Its last process ends: the hooks have nothing to remember.
            let Story {
                a,
                mut mesh,
                client,
                ..
            } = story;
            mesh.forget(&client);
            drop(client);
            mesh.daemon(&a)?
                .wait_for_log("the namespace's end", |event| event["why"] == "it is gone")?;
            mesh.wire()?.ensure_only_tls()
        })?;
    }
    Ok(())
}

/// The operator takes the workload out of the file; whether by a reload or
/// while no daemon runs makes no difference.
#[test]
fn nameless_namespace_is_given_up_with_its_workload() -> Result {
    for restart in [false, true] {
        play("given-up", |scene| {
            let mut story = Story::begin(scene)?;
            story.client.netns().unname()?;
            story.wait_until_absent()?;
            story.ensure_refused("without a name")?;
            story.mesh.wire()?.ensure_only_tls()?;

            story.mesh.forget(&story.client);
            story.mesh.replan(|plan| plan)?;
            if restart {
                story.mesh.daemon(&story.a)?.kill()?;
                story.start_daemon()?;
            } else {
                story.mesh.daemon(&story.a)?.reload()?;
            }
            let given_up = "the configuration has given it up";
            story
                .mesh
                .daemon(&story.a)?
                .wait_for_log(given_up, |event| event["why"] == given_up)?;
            story.ensure_passes()
        })?;
    }
    Ok(())
}

/// What was enrolled beside the file is not in it, and was not given up: no
/// crash of the daemon opens it.
#[test]
fn enrolled_by_hand_stays_refused_after_a_crash() -> Result {
    play("by-hand-crash", |scene| {
        let mut story = Story::begin(scene)?;
        let job = story.a.pod("job")?;
        let netns = job.netns().path().to_string_lossy().into_owned();
        let daemon = story.mesh.daemon(&story.a)?;
        let socket = daemon.admin_socket();
        let identity = "spiffe://example.org/job";
        let words = ["enrol", "--wait", "--socket", &socket, "--netns", &netns];
        daemon
            .command(&[&words[..], &["--spiffe-id", identity]].concat())?
            .success()?;
        daemon.kill()?;
        story.client = job;
        story.ensure_refused("without a daemon")?;
        story.start_daemon()?;
        story.ensure_refused("after a restart")?;
        story.mesh.wire()?.ensure_only_tls()
    })
}

/// A pod on a node that lets unknown namespaces pass, and one of the mesh's
/// network on the other node that speaks and listens in plain text.
struct Story {
    a: Node,
    mesh: Mesh,
    client: Pod,
    outside: Pod,
}

impl Story {
    fn begin(scene: &Scene) -> Result<Self> {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let plan = Plan::of([&client, &server]).set_on(&a, "node", "unknown", "\"pass\"");
        let mesh = Mesh::start_as(plan)?;
        let outside = b.outsider("outside")?;
        let _served = server.serve(8080, [Step::Echo])?;
        for family in Family::BOTH {
            let ended = client.connect(server.at(family, 8080), hello())?;
            ensure(ended.is_well(), || format!("in the mesh: {ended:?}"))?;
        }
        Ok(Self {
            a,
            mesh,
            client,
            outside,
        })
    }

    fn start_daemon(&mut self) -> Result {
        let daemon = self.mesh.daemon(&self.a)?;
        daemon.launch()?;
        wait_for(
            Deadline::default(),
            || "the daemon to serve",
            || {
                // Its socket is the former one's until it has its own.
                let serves = daemon
                    .status()
                    .is_ok_and(|status| status["status"]["phase"] == "serving");
                Ok(serves.then_some(()))
            },
        )
    }

    fn wait_until_absent(&mut self) -> Result {
        let cookie = self.client.netns().cookie()?;
        let daemon = self.mesh.daemon(&self.a)?;
        wait_for(
            Deadline::default(),
            || "the daemon to miss its workload",
            || {
                let status = daemon.status()?;
                let client = workloads(&status).find(|workload| workload["name"] == "client");
                let is_absent = client.is_some_and(|client| client["state"] == "absent");
                let displaced = &status["status"]["displaced"][0]["netns_cookie"];
                Ok((is_absent && *displaced == cookie).then_some(()))
            },
        )
    }

    /// Out of the pod and into it, what would be plain text.
    fn ensure_refused(&self, when: &str) -> Result {
        let mut served = self.outside.serve(8080, [Step::Echo])?;
        let mut own = self.client.serve(8080, [Step::Echo])?;
        for family in Family::BOTH {
            for (from, to) in [(&self.client, &self.outside), (&self.outside, &self.client)] {
                let ended = from.connect(to.at(family, 8080), hello())?;
                let what = format!("{when}, from {} to {}", from.name(), to.name());
                ensure(ended.failed_to_connect(), || format!("{what}: {ended:?}"))?;
                ensure_eq(ended.error(), "ECONNREFUSED", &what)?;
            }
        }
        for server in [&mut served, &mut own] {
            ensure(server.has_nothing_to_tell()?, || "something got through")?;
        }
        Ok(())
    }

    fn ensure_passes(&self) -> Result {
        let _served = self.outside.serve(8080, [Step::Echo])?;
        for family in Family::BOTH {
            let ended = self
                .client
                .connect(self.outside.at(family, 8080), hello())?;
            ensure(ended.is_well(), || format!("unknown: {ended:?}"))?;
        }
        Ok(())
    }
}

fn hello() -> [Step; 2] {
    [Step::Say("hi".into()), Step::Hear("hi".into())]
}
