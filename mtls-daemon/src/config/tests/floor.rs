//! `node.floor`.

use super::*;

fn under(floor: &str, more: &str) -> Result<Config, Mistakes> {
    let text = SMALL.replace("[node]\n", &format!("[node]\nfloor = \"{floor}\"\n"));
    parse("node.toml", &format!("{text}{more}"))
}

const WEB: &str = r#"
[[workload]]
name = "web"
spiffe_id = "spiffe://example.org/web"
netns = "/run/netns/web"
addresses = ["10.0.1.4"]
"#;

#[test]
fn nothing_is_looser_than_the_floor() {
    let off = format!("{WEB}mode = \"off\"\n");
    assert!(under("off", &off).is_ok());
    assert!(under("strict", WEB).is_ok());
    let told = under("STRICT", &off).unwrap_err().to_string();
    assert!(
        told.ends_with(
            "the mode of workload \"web\" is off, and node.floor forbids what is looser than strict; \
             write mode = \"strict\", or lower node.floor"
        ) && told.starts_with("node.toml:17:8:"),
        "{told}"
    );
    let told = under("strict", "[kubernetes]\nnode_name = \"a\"\n")
        .unwrap_err()
        .to_string();
    assert!(
        told.contains("kubernetes.mode is off, and node.floor"),
        "its default: {told}"
    );
}

#[test]
fn a_pod_that_asks_for_less_gets_the_floor() {
    let mut config = under("strict", WEB).unwrap();
    config.workloads[0].mode = Some(Mode::Off);
    assert_eq!(config.mode_of(&config.workloads[0]), Mode::Strict);
}
