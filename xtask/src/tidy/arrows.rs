//! Which module of the daemon may use which: arrows point one way.

use std::fmt::Write;

use super::rust::references;
use super::{Mistake, Repository};

/// Modules that belong together. A module may use those before it.
struct Room {
    name: &'static str,
    modules: &'static str,
}

const fn room(name: &'static str, modules: &'static str) -> Room {
    Room { name, modules }
}

/// From the ground up. A module may use what stands on a lower floor, and its
/// own room as above; never another room of its floor. A new arrow is a line
/// here and in ARCHITECTURE.md.
const FLOORS: &[&[Room]] = &[
    &[room(
        "leaves",
        "addr cgroup2 clock heartbeat memory rights netns reason refused sock_diag spiffe trace turns metrics access_log",
    )],
    &[room(
        "facts",
        "config locate api_server identity directory workload policy kubernetes facts",
    )],
    &[room("kernel", "kernel"), room("wire", "tls tunnel")],
    &[room(
        "carriage",
        "credentials handshake tunnels direct flow",
    )],
    &[room("pool", "health pool"), room("listener", "listener")],
    &[
        room("outbound", "answers outbound"),
        room("inbound", "dial inbound"),
    ],
    &[room("worker", "worker")],
    &[room("ops", "log admin cni cli")],
    &[room("node", "node")],
    &[room("app", "app generated")],
];

const SOURCES: &str = "mtls-daemon/src/";
const PAPER: &str = "ARCHITECTURE.md";

pub(super) fn check(repository: &Repository) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for (file, text) in repository.below(SOURCES, ".rs") {
        let module = module_path(file);
        if let [from, ..] = module.as_slice() {
            for reference in references(text, &module) {
                if let Some(what) = forbidden(from, &reference.path) {
                    mistakes.push(Mistake::at(file, reference.line, what));
                }
            }
        }
    }
    mistakes.extend(unplaced(repository));
    mistakes.extend(kernel_programs_apart(repository));
    if !repository
        .get(PAPER)
        .unwrap_or_default()
        .contains(&drawing())
    {
        mistakes.push(Mistake::of(
            PAPER,
            format!(
                "does not show the arrows as `tidy` holds them:\n{}",
                drawing()
            ),
        ));
    }
    mistakes
}

/// tls/verify.rs is [tls, verify]; lib.rs and main.rs are the root and may use everything.
fn module_path(file: &str) -> Vec<&str> {
    let inner = file.trim_start_matches(SOURCES).trim_end_matches(".rs");
    let mut path: Vec<_> = inner.split('/').collect();
    if path.last() == Some(&"mod") {
        path.pop();
    }
    if matches!(path.as_slice(), ["lib" | "main"]) {
        Vec::new()
    } else {
        path
    }
}

/// Why `from` may not name that path, if it may not.
fn forbidden(from: &str, path: &[String]) -> Option<String> {
    let to = path.first()?.as_str();
    let (here, there) = (place(from)?, place(to)?);
    if from == to {
        return None;
    }
    let same_room = (here.floor, here.room) == (there.floor, there.room);
    if there.floor > here.floor
        || (there.floor == here.floor && !same_room)
        || (same_room && there.nth > here.nth)
    {
        return Some(format!(
            "{from} may not use {to}: arrows point one way (see {PAPER}, Arrows)"
        ));
    }
    let attaches = to == "kernel" && path.get(1).is_some_and(|item| item == "Kernel");
    (attaches && !matches!(from, "app" | "node"))
        .then(|| format!("{from} may not use kernel::Kernel: only app and node load and attach"))
}

struct Place {
    floor: usize,
    room: usize,
    nth: usize,
}

fn place(module: &str) -> Option<Place> {
    FLOORS.iter().enumerate().find_map(|(floor, rooms)| {
        rooms
            .iter()
            .enumerate()
            .find_map(|(room, Room { modules, .. })| {
                modules
                    .split(' ')
                    .position(|name| name == module)
                    .map(|nth| Place { floor, room, nth })
            })
    })
}

/// Modules of lib.rs without a place or out of their order, and places without
/// a module.
fn unplaced(repository: &Repository) -> Vec<Mistake> {
    let file = format!("{SOURCES}lib.rs");
    let Some(text) = repository.get(&file) else {
        return Vec::new();
    };
    let mut mistakes = Vec::new();
    let mut highest = 0;
    let declared: Vec<_> = declared_modules(text).collect();
    for (line, module) in &declared {
        match place(module) {
            None => mistakes.push(Mistake::at(&file, *line, format!("module {module} has no place among the arrows: give it one in xtask's tidy and in {PAPER}"))),
            Some(place) if place.floor < highest => mistakes.push(Mistake::at(&file, *line, format!("module {module} stands above its floor: lib.rs lists the modules from the ground up"))),
            Some(place) => highest = place.floor,
        }
    }
    let placed = FLOORS
        .iter()
        .flat_map(|rooms| rooms.iter())
        .flat_map(|room| room.modules.split(' '));
    let gone = placed.filter(|module| !declared.iter().any(|(_, name)| name == module));
    mistakes.extend(gone.map(|module| {
        Mistake::of(
            &file,
            format!("the arrows know a module {module}, and there is none"),
        )
    }));
    mistakes
}

/// `mod` lines, numbered.
fn declared_modules(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter_map(|(nth, line)| {
        let line = line
            .trim_start_matches("pub ")
            .trim_start_matches("pub(crate) ");
        Some((nth + 1, line.strip_prefix("mod ")?.strip_suffix(';')?))
    })
}

/// The daemon and the kernel programs share mtls-common and nothing else.
fn kernel_programs_apart(repository: &Repository) -> Vec<Mistake> {
    let dependencies = [
        ("mtls-daemon", "mtls-ebpf"),
        ("mtls-ebpf", "mtls-daemon"),
        ("mtls-common", "mtls-daemon"),
        ("mtls-common", "mtls-ebpf"),
    ];
    let names = |text: &str, other: &str| {
        text.lines().position(|line| {
            line.split(['=', '.'])
                .next()
                .is_some_and(|key| key.trim() == other)
        })
    };
    let mut mistakes = Vec::new();
    for (package, other) in dependencies {
        let file = format!("{package}/Cargo.toml");
        if let Some(nth) = repository.get(&file).and_then(|text| names(text, other)) {
            mistakes.push(Mistake::at(
                &file,
                nth + 1,
                format!("{package} may not depend on {other}: they meet only in mtls-common"),
            ));
        }
    }
    mistakes
}

/// The floors as ARCHITECTURE.md shows them.
fn drawing() -> String {
    let mut drawing = String::from("```text\n");
    for rooms in FLOORS {
        let rooms: Vec<_> = rooms
            .iter()
            .map(|room| format!("{}: {}", room.name, room.modules))
            .collect();
        let _ = writeln!(drawing, "{}", rooms.join("  |  "));
    }
    drawing.push_str("main\n```");
    drawing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(files: &[(&str, &str)]) -> Vec<String> {
        let paper = drawing();
        let mut all = vec![(PAPER, paper.as_str())];
        all.extend(files);
        check(&Repository::of(&all))
            .iter()
            .map(Mistake::to_string)
            .collect()
    }

    #[test]
    fn lets_arrows_point_down() {
        let files = [
            (
                "mtls-daemon/src/outbound.rs",
                "use crate::pool::Pool; use crate::kernel::Handoff; use super::addr::Peer;",
            ),
            (
                "mtls-daemon/src/app.rs",
                "use crate::kernel::Kernel; use crate::{outbound, inbound};",
            ),
            (
                "mtls-daemon/src/identity/files.rs",
                "use crate::config::Files; use super::Svid;",
            ),
            ("mtls-daemon/src/lib.rs", &all_modules()),
            ("mtls-daemon/src/main.rs", "use mtls_daemon::app;"),
        ];
        assert_eq!(mistakes(&files), [""; 0]);
    }

    #[test]
    fn refuses_an_arrow_upwards() {
        let found = mistakes(&[(
            "mtls-daemon/src/pool.rs",
            "\nuse crate::{addr::Peer, outbound::Outbound};",
        )]);
        assert_eq!(
            found,
            [
                "mtls-daemon/src/pool.rs:2: pool may not use outbound: arrows point one way (see ARCHITECTURE.md, Arrows)"
            ]
        );
    }

    #[test]
    fn refuses_an_arrow_across() {
        for (file, text) in [
            (
                "mtls-daemon/src/outbound.rs",
                "fn f() { crate::inbound::deliver() }",
            ),
            ("mtls-daemon/src/inbound.rs", "use super::outbound;"),
            (
                "mtls-daemon/src/tunnel/read.rs",
                "use crate::kernel::Handoff;",
            ),
            (
                "mtls-daemon/src/kernel/mod.rs",
                "use crate::tls::ClientTls;",
            ),
            (
                "mtls-daemon/src/config/parse.rs",
                "use crate::policy::Policy;",
            ),
        ] {
            assert_eq!(mistakes(&[(file, text)]).len(), 1, "{file}");
        }
    }

    #[test]
    fn lets_only_app_attach() {
        let found = mistakes(&[(
            "mtls-daemon/src/inbound.rs",
            "use crate::kernel::{Handoff, Kernel};",
        )]);
        assert_eq!(
            found,
            [
                "mtls-daemon/src/inbound.rs:1: inbound may not use kernel::Kernel: only app and node load and attach"
            ]
        );
    }

    /// A lib.rs in which each module has its place.
    fn all_modules() -> String {
        let modules = FLOORS
            .iter()
            .flat_map(|rooms| rooms.iter())
            .flat_map(|room| room.modules.split(' '));
        modules
            .map(|module| format!("pub mod {module};\n"))
            .collect()
    }

    #[test]
    fn wants_every_module_placed_and_in_order() {
        let lib = all_modules().replace("pub mod addr;\n", "") + "pub mod addr;\nmod helpers;";
        let found = mistakes(&[("mtls-daemon/src/lib.rs", &lib)]);
        assert_eq!(found.len(), 2);
        assert!(found[0].contains("module addr stands above its floor"));
        assert!(found[1].contains("module helpers has no place"));
    }

    #[test]
    fn wants_no_place_without_a_module() {
        let lib = all_modules().replace("pub mod pool;\n", "");
        let found = mistakes(&[("mtls-daemon/src/lib.rs", &lib)]);
        assert_eq!(
            found,
            ["mtls-daemon/src/lib.rs:1: the arrows know a module pool, and there is none"]
        );
    }

    #[test]
    fn keeps_daemon_and_kernel_programs_apart() {
        let found = mistakes(&[(
            "mtls-daemon/Cargo.toml",
            "[dependencies]\nmtls-common = { path = \"x\" }\nmtls-ebpf.workspace = true",
        )]);
        assert_eq!(
            found,
            [
                "mtls-daemon/Cargo.toml:3: mtls-daemon may not depend on mtls-ebpf: they meet only in mtls-common"
            ]
        );
    }

    #[test]
    fn wants_the_paper_to_show_the_same_arrows() {
        let found = check(&Repository::of(&[(PAPER, "```text\nleaves: addr\n```")]));
        assert!(found[0].what.starts_with("does not show the arrows"));
    }
}
