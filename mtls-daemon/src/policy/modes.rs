//! What the workloads of this node take and send in clear.

use std::collections::HashMap;

use crate::config::{Config, Mode, Workload};

/// By the workload's name. One that is not here takes and sends nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modes(HashMap<String, Of>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Of {
    mode: Mode,
    ports: HashMap<u16, Mode>,
}

impl Modes {
    /// Of the configured workloads, and of those beside them.
    pub fn new(config: &Config, beside: &[Workload]) -> Self {
        let all = config.workloads.iter().chain(beside);
        let of = |workload: &Workload| {
            let ports = config.port_modes(workload).map(|it| (it.port, it.mode));
            let (mode, ports) = (config.mode_of(workload), ports.collect());
            (workload.name.clone(), Of { mode, ports })
        };
        Self(all.map(of).collect())
    }

    /// What holds for what comes to `port`, if the workload is this node's.
    pub fn at(&self, workload: &str, port: u16) -> Option<Mode> {
        let of = self.0.get(workload)?;
        Some(of.ports.get(&port).copied().unwrap_or(of.mode))
    }

    /// Whether what comes to `port` in clear may be delivered.
    pub fn takes_plaintext(&self, workload: &str, port: u16) -> bool {
        self.at(workload, port)
            .is_some_and(|mode| mode != Mode::Strict)
    }

    /// Whether it may reach in clear who is known to have no daemon.
    pub fn sends_plaintext(&self, workload: &str) -> bool {
        self.0
            .get(workload)
            .is_some_and(|of| of.mode != Mode::Strict)
    }
}

#[cfg(test)]
impl Modes {
    pub(super) fn permissive(workload: &str) -> Self {
        let of = Of {
            mode: Mode::Permissive,
            ports: HashMap::new(),
        };
        Self([(workload.to_owned(), of)].into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modes(node: &str, workload: &str) -> Modes {
        let text = format!(
            r#"
version = 1
[node]
name = "a"
{node}
[identity]
trust_domain = "example.org"
[identity.disk-ca]
certificate = "/ca.pem"
key = "/key.pem"
[[workload]]
name = "db"
spiffe_id = "spiffe://example.org/db"
netns = "/run/netns/db"
addresses = ["10.0.2.7"]
{workload}"#
        );
        Modes::new(&crate::config::parse("x", &text).unwrap(), &[])
    }

    #[test]
    fn the_narrowest_mode_counts() {
        let ports =
            r#"port_modes = [{ port = 80, mode = "permissive" }, { port = 81, mode = "STRICT" }]"#;
        let strict = modes("", ports);
        assert!(strict.takes_plaintext("db", 80));
        assert!(!strict.takes_plaintext("db", 81) && !strict.takes_plaintext("db", 82));
        assert!(
            !strict.sends_plaintext("db"),
            "a port speaks of what comes in"
        );
        let loose = modes("mode = \"PERMISSIVE\"", ports);
        assert!(loose.takes_plaintext("db", 80) && loose.takes_plaintext("db", 82));
        assert!(!loose.takes_plaintext("db", 81));
        assert!(loose.sends_plaintext("db"));
        let narrow = modes("mode = \"permissive\"", "mode = \"strict\"");
        assert!(!narrow.takes_plaintext("db", 80) && !narrow.sends_plaintext("db"));
    }

    #[test]
    fn of_whom_nothing_is_known_nothing_is_taken() {
        assert!(!Modes::default().takes_plaintext("db", 80));
        assert!(!Modes::default().sends_plaintext("db"));
    }
}
