//! The command line as a script meets it: what is printed where, and the exit
//! status.

use std::path::PathBuf;
use std::process::{Command, Output};

struct Ran {
    status: i32,
    out: String,
    err: String,
}

fn run(words: &[&str]) -> Ran {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_mtls-daemon"))
        .args(words)
        .output()
        .expect("the binary was built for this test");
    Ran {
        status: status.code().expect("it was not killed"),
        out: String::from_utf8(stdout).expect("text"),
        err: String::from_utf8(stderr).expect("text"),
    }
}

/// A file of this test, gone at the end.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mtls-cli-{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("a temporary file");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("the name is text")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn example() -> String {
    run(&["config", "example"]).out
}

#[test]
fn a_good_configuration() {
    let file = File::new("good.toml", &example());
    let ran = run(&["check-config", file.path()]);
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert!(
        ran.out.ends_with(": good: 1 workload, 1 peer, 1 service\n"),
        "{}",
        ran.out
    );
    assert!(ran.err.starts_with("warning: "), "{}", ran.err);
}

#[test]
fn mistakes_are_all_on_standard_error() {
    let text = example()
        .replace("udp = \"pass\"", "udp = \"deny\"")
        .replace("[limits]\n", "[limits]\nspeed = 5\n");
    let file = File::new("bad.toml", &text);
    let ran = run(&["check-config", file.path()]);
    assert_eq!(ran.status, 1);
    assert_eq!(ran.out, "");
    let lines: Vec<&str> = ran.err.lines().collect();
    assert_eq!(lines.len(), 3, "{}", ran.err);
    assert!(
        lines[0]
            .contains("network.udp: \"deny\" is none of the choices; write \"pass\" or \"refuse\"")
    );
    assert!(lines[1].contains("[limits] has no key \"speed\""));
    assert_eq!(lines[2], "2 mistakes");
    // The daemon does not start with it either.
    let ran = run(&["run", "--config", file.path()]);
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("network.udp"), "{}", ran.err);
}

#[test]
fn the_effective_configuration_is_a_configuration() {
    let file = File::new("shown.toml", &example());
    let shown = run(&["config", "show", "--effective", "--config", file.path()]);
    assert_eq!(shown.status, 0, "{}", shown.err);
    let again = File::new("again.toml", &shown.out);
    let shown_again = run(&["config", "show", "--effective", "--config", again.path()]);
    assert_eq!(shown_again.out, shown.out);
}

#[test]
fn without_a_daemon_nobody_answers() {
    for words in [
        &["status", "--socket", "/nonexistent/admin.sock"][..],
        &[
            "connections",
            "--socket",
            "/nonexistent/admin.sock",
            "--output",
            "json",
        ],
        &[
            "enrol",
            "--socket",
            "/nonexistent/admin.sock",
            "--netns",
            "/run/netns/x",
        ],
    ] {
        let ran = run(words);
        assert_eq!(ran.status, 3, "{words:?}: {}", ran.err);
        assert_eq!(ran.out, "");
        assert!(
            ran.err
                .contains("no daemon answers at /nonexistent/admin.sock")
        );
        assert!(ran.err.contains("--socket"));
    }
}

#[test]
fn a_reason_is_explained() {
    let ran = run(&["explain", "unknown_issuer"]);
    assert_eq!(ran.status, 0);
    assert!(
        ran.out
            .starts_with("unknown_issuer (handshake, refusal, end)\n"),
        "{}",
        ran.out
    );
    assert_eq!(run(&["explain", "nonsense"]).status, 1);
    assert!(run(&["explain"]).out.lines().count() > 40);
}

#[test]
fn a_wrong_command_line_is_told_apart() {
    assert_eq!(run(&["start"]).status, 2);
    assert_eq!(run(&["enrol", "--wait"]).status, 2);
    assert_eq!(
        run(&["version"]).out,
        format!("mtls-daemon {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn a_policy_is_tried_out_without_a_daemon() {
    let policy = r#"
[[authorization-policy]]
name = "callers"
workloads = ["web"]
rules = [{ from = [{ principals = ["spiffe://example.org/db"] }], to = [{ ports = [80] }] }]
"#;
    let file = File::new("policy.toml", &(example() + policy));
    let test = |from: &str, to: &str| {
        let words = ["policy", "test", "--from", from, "--to", to, "--config"];
        run(&[&words[..], &[file.path()]].concat())
    };
    let allowed = test("spiffe://example.org/db", "web:80");
    assert_eq!(allowed.status, 0, "{}", allowed.err);
    assert!(
        allowed.out.ends_with("\nallowed by callers[0]\n"),
        "{}",
        allowed.out
    );
    let denied = test("spiffe://example.org/db", "spiffe://example.org/web:81");
    assert_eq!(denied.status, 1);
    let lines: Vec<&str> = denied.out.lines().collect();
    assert!(lines[1].starts_with("callers[0]  ALLOW   no       ports"));
    assert_eq!(
        lines[2],
        "denied: ALLOW policies select the workload, and no rule of theirs matches"
    );
    let nobody = test("spiffe://example.org/db", "webb:80");
    assert_eq!(nobody.status, 1);
    assert!(
        nobody
            .err
            .contains("no workload, pod or peer is called \"webb\""),
        "{}",
        nobody.err
    );
    assert_eq!(test("spiffe://example.org/db", "web").status, 2);
}
