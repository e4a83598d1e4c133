//! The trust root is replaced under load: the new one beside the old, then
//! certificates from the new one, then the old one is taken out. No connection
//! fails, and none that is open is cut.

use std::fs;
use std::path::Path;

use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::error::Doing;
use mtls_tests::mesh::Ca;
use mtls_tests::player::Client;
use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Mesh, Pair, Result, ensure, ensure_eq, play};
use serde_json::Value;

/// Exchanges on the stream that lives through it all, one at each step.
const STEPS: u64 = 4;

#[test]
fn root_rotation() -> Result {
    play("root-rotation", |scene| {
        let folder = scene.dir().join("authority");
        fs::create_dir(&folder).doing(|| "making the authority's folder")?;
        let old = Ca::create(scene.dir(), "old", "example.org")?;
        let new = Ca::create(scene.dir(), "new", "example.org")?;
        issue_by(&old, &folder)?;
        trust(&[&old], &folder)?;
        let mut pair = Pair::start_as(scene, |mut plan, _, _| {
            for (key, file) in [
                ("certificate", "ca.crt"),
                ("key", "ca.key"),
                ("bundle", "roots.pem"),
            ] {
                let path = format!("{:?}", folder.join(file));
                plan = plan.set("identity.disk-ca", key, &path);
            }
            plan
        })?;
        let _server = pair.server.serve(8080, [Step::Echo])?;
        let to = pair.server.at(Family::V4, 8080);
        let exchanges = (0..STEPS).flat_map(|seed| {
            let bytes = 64 << 10;
            [
                Step::Hold,
                Step::Send { bytes, seed },
                Step::Receive { bytes, seed },
            ]
        });
        let mut stream = pair
            .client
            .connect_as(Connect::to(to, exchanges.collect::<Vec<_>>()))?;
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        let mut load = pair
            .client
            .connect_as(Connect::to(to, hello).many(usize::MAX, 2))?;
        go_on(&mut stream, &mut load)?;

        trust(&[&old, &new], &folder)?;
        wait_for_roots(&mut pair.mesh, &mut load, 2)?;
        go_on(&mut stream, &mut load)?;

        issue_by(&new, &folder)?;
        wait_for_all(&mut pair.mesh, &mut load, |shown| {
            let issuer = shown["certificates"][0]["svid"]["issuer"].as_str();
            issuer.is_some_and(|issuer| issuer.contains("new of"))
        })?;
        go_on(&mut stream, &mut load)?;

        trust(&[&new], &folder)?;
        wait_for_roots(&mut pair.mesh, &mut load, 1)?;
        go_on(&mut stream, &mut load)?;

        let ended = stream.ended()?;
        ensure(ended.is_well(), || format!("the stream: {ended:?}"))?;
        ensure_eq(ended.corrupt_at, None, "corrupt bytes of the stream")?;
        pair.ensure_private().map(drop)
    })
}

/// One exchange on the stream, and one more connection.
fn go_on(stream: &mut Client, load: &mut Client) -> Result {
    stream.held()?;
    stream.go()?;
    let ended = load.ended()?;
    ensure(ended.is_well(), || format!("{ended:?}"))
}

fn wait_for_roots(mesh: &mut Mesh, load: &mut Client, count: usize) -> Result {
    wait_for_all(mesh, load, |shown| {
        shown["roots"].as_array().map(Vec::len) == Some(count)
    })
}

/// Waits until every daemon's certificates are so. Each connection meanwhile
/// must end well.
fn wait_for_all(mesh: &mut Mesh, load: &mut Client, is_so: impl Fn(&Value) -> bool) -> Result {
    wait_for(
        Deadline::default(),
        || "a step of the rotation to reach both nodes",
        || {
            let ended = load.ended()?;
            ensure(ended.is_well(), || format!("{ended:?}"))?;
            for daemon in mesh.daemons() {
                if !is_so(&daemon.ask("certificates")?) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        },
    )
}

fn issue_by(ca: &Ca, folder: &Path) -> Result {
    for (from, to) in [(&ca.certificate, "ca.crt"), (&ca.key, "ca.key")] {
        fs::copy(from, folder.join(to)).doing(|| format!("replacing {to}"))?;
    }
    Ok(())
}

fn trust(roots: &[&Ca], folder: &Path) -> Result {
    let mut text = String::new();
    for root in roots {
        let path = &root.certificate;
        text += &fs::read_to_string(path).doing(|| format!("reading {}", path.display()))?;
    }
    fs::write(folder.join("roots.pem"), text).doing(|| "replacing the roots")
}
