//! Which mode a workload has, and each of its ports: of all that is said, the
//! narrowest counts, and nothing is looser than the floor.

use super::authentication::Of;
use super::{Config, Mode, PeerAuthentication, PortMode, Workload};

impl Config {
    /// By its own word, those that select it, its namespace's or the node's.
    pub fn mode_of(&self, workload: &Workload) -> Mode {
        let selecting = self.selecting(workload).find_map(|it| it.mode);
        let of_namespace = || self.of_namespace(workload).find_map(|it| it.mode);
        let wanted = workload.mode.or(selecting).or_else(of_namespace);
        // A pod's label may ask for less than the floor, a file cannot.
        wanted.unwrap_or(self.node.mode).max(self.node.floor)
    }

    /// Whose word that is, but for the floor's.
    pub fn said_by(&self, workload: &Workload) -> &'static str {
        let of_several = || self.selecting(workload).chain(self.of_namespace(workload));
        match workload.mode {
            Some(_) => "the configuration",
            None if of_several().any(|it| it.mode.is_some()) => "peer-authentication",
            None => "node.mode",
        }
    }

    /// Ports of a workload of which somebody says a mode, for what comes in.
    pub fn port_modes<'a>(&'a self, workload: &'a Workload) -> impl Iterator<Item = PortMode> {
        let selecting = self.selecting(workload).flat_map(|it| &it.port_modes);
        let mut told = Vec::new();
        let all = workload.port_modes.iter().chain(selecting);
        let first = all.filter(move |it| {
            let is_first = !told.contains(&it.port);
            told.push(it.port);
            is_first
        });
        let floor = self.node.floor;
        first.map(move |it| PortMode {
            port: it.port,
            mode: it.mode.max(floor),
        })
    }

    /// Those in a mode.
    pub fn ports_in<'a>(&'a self, mode: Mode, workload: &'a Workload) -> impl Iterator<Item = u16> {
        let all = self.port_modes(workload);
        all.filter_map(move |it| (it.mode == mode).then_some(it.port))
    }

    fn selecting<'a>(
        &'a self,
        workload: &'a Workload,
    ) -> impl Iterator<Item = &'a PeerAuthentication> {
        self.authentication.iter().filter(|it| match &it.of {
            Of::Workloads(selected) => {
                let mut selected = selected.iter();
                selected.any(|one| one.is(&workload.name, &workload.spiffe_id))
            }
            Of::Namespaces(_) => false,
        })
    }

    fn of_namespace<'a>(
        &'a self,
        workload: &'a Workload,
    ) -> impl Iterator<Item = &'a PeerAuthentication> {
        let namespace = workload.spiffe_id.namespace();
        self.authentication.iter().filter(move |it| match &it.of {
            Of::Workloads(_) => false,
            Of::Namespaces(patterns) => {
                namespace.is_some_and(|namespace| patterns.iter().any(|one| one.matches(namespace)))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = r#"
version = 1
[node]
name = "a"
mode = "strict"
[identity]
trust_domain = "example.org"
[identity.disk-ca]
certificate = "/ca.pem"
key = "/key.pem"
"#;

    const DB: &str = r#"
[[workload]]
name = "db"
spiffe_id = "spiffe://example.org/ns/shop/sa/db"
netns = "/run/netns/db"
addresses = ["10.0.2.7"]
"#;

    const SHOP: &str = r#"
[[peer-authentication]]
name = "shop"
namespaces = ["shop", "test-*"]
mode = "off"
"#;

    const PORTS: &str = r#"
[[peer-authentication]]
name = "ports"
workloads = ["db"]
port_modes = [{ port = 80, mode = "permissive" }, { port = 81, mode = "permissive" }]
"#;

    const DBS: &str = r#"
[[peer-authentication]]
name = "dbs"
workloads = ["spiffe://example.org/ns/shop/*"]
mode = "permissive"
port_modes = [{ port = 80, mode = "strict" }, { port = 82, mode = "strict" }]
"#;

    fn mode(parts: &[&str]) -> Mode {
        let config = super::super::parse("x", &parts.concat()).unwrap();
        config.mode_of(&config.workloads[0])
    }

    #[test]
    fn the_narrowest_word_counts() {
        assert_eq!(mode(&[NODE, DB]), Mode::Strict, "the node's");
        assert_eq!(mode(&[NODE, DB, SHOP]), Mode::Off, "the namespace's");
        assert_eq!(mode(&[NODE, DB, SHOP, PORTS]), Mode::Off, "of ports only");
        assert_eq!(mode(&[NODE, DB, SHOP, DBS]), Mode::Permissive, "selected");
        let own = [NODE, DB, "mode = \"strict\"", DBS, SHOP];
        assert_eq!(mode(&own), Mode::Strict, "its own");
        let elsewhere = DB.replace("/ns/shop/", "/ns/shopping/");
        assert_eq!(mode(&[NODE, &elsewhere, SHOP, DBS]), Mode::Strict);
        let pattern = DB.replace("/ns/shop/", "/ns/test-1/");
        assert_eq!(mode(&[NODE, &pattern, SHOP]), Mode::Off);
        let nameless = DB.replace("/ns/shop/sa/", "/shop/");
        assert_eq!(mode(&[NODE, &nameless, SHOP]), Mode::Strict);
    }

    #[test]
    fn of_a_port_the_first_word_counts_and_its_own_is_the_first() {
        let own = "port_modes = [{ port = 81, mode = \"strict\" }]";
        let text = [NODE, DB, own, PORTS, DBS].concat();
        let config = super::super::parse("x", &text).unwrap();
        let mut told: Vec<_> = config
            .port_modes(&config.workloads[0])
            .map(|it| (it.port, it.mode))
            .collect();
        told.sort_unstable();
        let expected = [
            (80, Mode::Permissive),
            (81, Mode::Strict),
            (82, Mode::Strict),
        ];
        assert_eq!(told, expected);
        let strict: Vec<u16> = config
            .ports_in(Mode::Strict, &config.workloads[0])
            .collect();
        assert_eq!(strict, [81, 82]);
    }

    #[test]
    fn what_is_said_of_nobody_or_of_all_ports_is_a_mistake() {
        for (section, what) in [
            ("mode = \"strict\"", "does not say of whom it speaks"),
            (
                "workloads = [\"db\"]\nnamespaces = [\"shop\"]\nmode = \"strict\"",
                "speaks of workloads and of namespaces",
            ),
            ("workloads = [\"db\"]", "it says nothing"),
            (
                "namespaces = [\"shop\"]\nport_modes = [{ port = 80, mode = \"off\" }]",
                "ports of all workloads of a namespace",
            ),
            (
                "workloads = [\"db\"]\nport_modes = [{ port = 80, mode = \"off\" }, { port = 80, mode = \"strict\" }]",
                "port 80 stands here twice",
            ),
            ("workloads = []\nmode = \"off\"", "workloads is empty"),
        ] {
            let section = format!("[[peer-authentication]]\nname = \"x\"\n{section}\n");
            let told = super::super::parse("x", &[NODE, DB, &section].concat());
            let told = told.unwrap_err().to_string();
            assert!(told.contains(what), "{section}: {told}");
        }
        let floor = NODE.replace("mode = \"strict\"", "floor = \"permissive\"");
        let told = super::super::parse("x", &[&floor, DB, SHOP].concat()).unwrap_err();
        assert!(told.to_string().contains("node.floor"), "{told}");
        let odd = SHOP.replace(
            "namespaces = [\"shop\", \"test-*\"]",
            "workloads = [\"bd\"]",
        );
        let loaded = super::super::read_text("x", &[NODE, DB, &odd].concat()).unwrap();
        let warnings = loaded.warnings.to_string();
        assert!(warnings.contains("no workload is bd"), "{warnings}");
    }
}
