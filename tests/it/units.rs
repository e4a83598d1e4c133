//! The units of deploy/systemd say what systemd understands, and start programs
//! that are there.

use std::fs;
use std::path::Path;

use mtls_tests::process::Spawn;
use mtls_tests::{Doing, Result, Scene, ensure, play, programs};

#[test]
fn units() -> Result {
    play("units", |scene| {
        let daemon = programs::daemon()?.display().to_string();
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
        let mut seen = 0;
        for unit in fs::read_dir(&units).doing(|| format!("reading {}", units.display()))? {
            let unit = unit.doing(|| "reading a folder")?;
            let name = unit.file_name().to_string_lossy().into_owned();
            let text = fs::read_to_string(unit.path()).doing(|| format!("reading {name}"))?;
            let text = text.replace("/usr/bin/mtls-daemon", &daemon);
            let said = verify(scene, &name, &text)?;
            ensure(said.is_empty(), || format!("{name}: {said}"))?;
            let misspelt = text.replace("ExecStart=", "ExecStat=");
            ensure(!verify(scene, &name, &misspelt)?.is_empty(), || {
                format!("nothing is said of {name} with a mistake")
            })?;
            seen += 1;
        }
        ensure(seen == 3, || format!("{seen} units"))
    })
}

/// What systemd has to say against it.
fn verify(scene: &Scene, name: &str, text: &str) -> Result<String> {
    // It reads those beside it, too.
    let folder = scene.dir().join("units");
    fs::create_dir_all(&folder).doing(|| format!("making {}", folder.display()))?;
    let other = "[Service]\nType=oneshot\nExecStart=/bin/true\n";
    for (name, text) in [(name, text), ("netns-web.service", other)] {
        let file = folder.join(name);
        fs::write(&file, text).doing(|| format!("writing {}", file.display()))?;
    }
    let said = Spawn::new("systemd-analyze", &scene.logs())?
        .args(["verify", "--man=no"])
        .arg(folder.join(name))
        .output()?;
    fs::remove_dir_all(&folder).doing(|| format!("removing {}", folder.display()))?;
    let mut text = said.stdout + &said.stderr;
    if !said.status.success() {
        text.push_str(&said.status.to_string());
    }
    Ok(text)
}
