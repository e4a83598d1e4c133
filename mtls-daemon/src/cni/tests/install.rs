//! The plug-in's place, in folders as runtimes have them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::install::{Done, InstallError, Place};
use super::super::keeper::Keeper;
use crate::config::Cni;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mtls-cni-{name}-{}", std::process::id()));
        fs::create_dir_all(path.join("conf")).unwrap();
        fs::create_dir_all(path.join("bin")).unwrap();
        Self(path)
    }

    fn conf(&self, name: &str) -> PathBuf {
        self.0.join("conf").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.conf(name), text).unwrap();
    }

    fn place(&self) -> Place {
        Place::new(&Cni {
            enabled: true,
            conf_dir: self.0.join("conf"),
            bin_dir: self.0.join("bin"),
            socket: "/run/mtls-daemon/cni.sock".into(),
            exclude: vec!["kube-system".to_owned()],
        })
    }

    /// What is in it, hidden files and all.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("conf")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    fn types(&self, name: &str) -> Vec<String> {
        let list: Value =
            serde_json::from_str(&fs::read_to_string(self.conf(name)).unwrap()).unwrap();
        let plugins = list["plugins"].as_array().unwrap();
        plugins
            .iter()
            .map(|plugin| plugin["type"].as_str().unwrap().to_owned())
            .collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn list(kind: &str) -> String {
    json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": kind}]}).to_string()
}

fn conf() -> String {
    json!({"cniVersion": "0.4.0", "name": "net", "type": "bridge"}).to_string()
}

#[test]
fn the_first_list_has_the_entry_and_the_rest_stays_as_it_was() {
    let folder = Folder::new("first");
    folder.write("10-net.conflist", &list("bridge"));
    folder.write("20-other.conflist", &list("other"));
    folder.write("00-notes.txt", "no configuration");
    fs::set_permissions(
        folder.conf("10-net.conflist"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    let mut place = folder.place();
    assert_eq!(
        place.put().unwrap(),
        Done {
            copied: true,
            written: true
        }
    );
    assert_eq!(folder.types("10-net.conflist"), ["bridge", "mtls-daemon"]);
    assert_eq!(folder.types("20-other.conflist"), ["other"]);
    let about = fs::metadata(folder.conf("10-net.conflist")).unwrap();
    assert_eq!(about.permissions().mode() & 0o777, 0o600);
    assert!(place.is_in_force().unwrap());

    // A second look, also of the next daemon, finds nothing to do.
    assert_eq!(place.put().unwrap(), Done::default());
    assert_eq!(folder.place().put().unwrap(), Done::default());
    let again = fs::metadata(folder.conf("10-net.conflist")).unwrap();
    assert_eq!(again.ino(), about.ino());

    assert_eq!(place.remove().unwrap(), [folder.conf("10-net.conflist")]);
    let now: Value =
        serde_json::from_str(&fs::read_to_string(folder.conf("10-net.conflist")).unwrap()).unwrap();
    assert_eq!(now, serde_json::from_str::<Value>(&list("bridge")).unwrap());
    assert_eq!(
        folder.names(),
        ["00-notes.txt", "10-net.conflist", "20-other.conflist"]
    );
}

#[test]
fn the_plug_in_is_this_program_whole_and_again_when_it_is_gone() {
    let folder = Folder::new("copy");
    folder.write("10-net.conflist", &list("bridge"));
    let (mut place, copy) = (folder.place(), folder.0.join("bin/mtls-daemon"));
    place.put().unwrap();
    assert_eq!(
        fs::read(&copy).unwrap(),
        fs::read("/proc/self/exe").unwrap()
    );
    assert_eq!(
        fs::metadata(&copy).unwrap().permissions().mode() & 0o777,
        0o755
    );
    for damage in [
        &(|path: &Path| fs::remove_file(path).unwrap()) as &dyn Fn(&Path),
        &|path| fs::write(path, "half").unwrap(),
    ] {
        damage(&copy);
        assert!(place.put().unwrap().copied);
        assert_eq!(
            fs::read(&copy).unwrap(),
            fs::read("/proc/self/exe").unwrap()
        );
    }
}

#[test]
fn another_program_may_write_the_list_anew() {
    let folder = Folder::new("anew");
    folder.write("10-net.conflist", &list("bridge"));
    let mut place = folder.place();
    place.put().unwrap();
    folder.write("10-net.conflist", &list("newer"));
    assert!(!place.is_in_force().unwrap());
    assert!(place.put().unwrap().written);
    assert_eq!(folder.types("10-net.conflist"), ["newer", "mtls-daemon"]);
    // One that now comes first takes its place.
    folder.write("05-first.conflist", &list("first"));
    place.put().unwrap();
    assert_eq!(folder.types("05-first.conflist"), ["first", "mtls-daemon"]);
    place.remove().unwrap();
    assert_eq!(folder.types("05-first.conflist"), ["first"]);
    assert_eq!(folder.types("10-net.conflist"), ["newer"]);
}

#[test]
fn a_single_configuration_becomes_a_list_and_comes_back() {
    let folder = Folder::new("single");
    folder.write("10-net.conf", &conf());
    let mut place = folder.place();
    place.put().unwrap();
    assert_eq!(folder.types("10-net.conflist"), ["bridge", "mtls-daemon"]);
    assert_eq!(
        folder.names(),
        [".10-net.conf.before-mtls-daemon", "10-net.conflist"]
    );
    assert_eq!(place.put().unwrap(), Done::default());
    // Its owner writes it again.
    folder.write("10-net.conf", &conf());
    assert!(place.put().unwrap().written);
    place.remove().unwrap();
    assert_eq!(folder.names(), ["10-net.conf"]);
    assert_eq!(
        fs::read_to_string(folder.conf("10-net.conf")).unwrap(),
        conf()
    );
}

#[test]
fn a_list_that_somebody_wrote_meanwhile_is_not_undone() {
    let folder = Folder::new("meanwhile");
    folder.write("10-net.conf", &conf());
    let mut place = folder.place();
    place.put().unwrap();
    folder.write("10-net.conflist", &list("newer"));
    place.put().unwrap();
    place.remove().unwrap();
    assert_eq!(folder.types("10-net.conflist"), ["newer"]);
}

#[test]
fn what_is_not_understood_is_left_as_it_is() {
    let folder = Folder::new("odd");
    let mut place = folder.place();
    assert!(matches!(place.put(), Err(InstallError::Nothing(_))));
    for (name, text) in [
        (
            "10-net.conflist",
            "{\"name\": \"net\", \"plugins\": [{\"type\": \"bri",
        ),
        ("10-net.conflist", "{\"name\": \"net\"}"),
        ("10-net.conf", "{\"name\": \"net\"}"),
    ] {
        folder.write(name, text);
        let error = place.put().unwrap_err();
        assert!(matches!(error, InstallError::NotUnderstood(..)), "{error}");
        assert!(error.to_string().contains("is left as it is"), "{error}");
        assert!(place.remove().unwrap().is_empty());
        assert_eq!(fs::read_to_string(folder.conf(name)).unwrap(), text);
        fs::remove_file(folder.conf(name)).unwrap();
    }
    // Two of one name: nobody can tell which is meant.
    folder.write("10-net.conf", &conf());
    folder.write("10-net.conflist", &list("other"));
    assert!(matches!(place.put(), Err(InstallError::Both(..))));
    assert_eq!(folder.names(), ["10-net.conf", "10-net.conflist"]);
    fs::remove_file(folder.conf("10-net.conf")).unwrap();
    fs::remove_file(folder.conf("10-net.conflist")).unwrap();
    symlink("/nowhere", folder.conf("10-net.conflist")).unwrap();
    assert!(matches!(place.put(), Err(InstallError::Link(_))));
}

/// Looks until it is so.
fn soon(what: &str, so: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    while !so() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
}

#[test]
fn it_is_kept_where_it_is_until_it_is_to_leave() {
    let folder = Folder::new("kept");
    let name = "10-net.conflist";
    let keeper = Keeper::start(folder.place()).unwrap();
    soon("what is missing is told", || keeper.trouble().is_some());
    for kind in ["bridge", "newer"] {
        folder.write(name, &list(kind));
        soon("the entry is back", || {
            folder.types(name) == [kind, "mtls-daemon"]
        });
    }
    soon("nothing is missing", || keeper.trouble().is_none());
    assert_eq!(keeper.leave().unwrap(), [folder.conf(name)]);
    folder.write(name, &list("last"));
    assert_eq!(folder.types(name), ["last"]);
}
