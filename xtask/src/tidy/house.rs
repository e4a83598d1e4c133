//! House rules: short files, no paths of anybody's machine, our own licences in
//! their places.

use super::{Mistake, Repository};

/// A file that grows past this holds two stories.
const LONGEST: usize = 500;

pub(super) fn check(repository: &Repository, root: &str) -> Vec<Mistake> {
    let mut mistakes = lengths(repository);
    mistakes.extend(machine_paths(repository, root));
    mistakes.extend(licences(repository));
    mistakes
}

fn lengths(repository: &Repository) -> Vec<Mistake> {
    let counted = repository
        .below("", ".rs")
        .map(|(file, text)| (file, text.lines().count()));
    let long = counted.filter(|(_, lines)| *lines > LONGEST);
    long.map(|(file, lines)| {
        Mistake::at(
            file,
            LONGEST + 1,
            format!("{lines} lines; past {LONGEST} a file holds two stories: split it"),
        )
    })
    .collect()
}

/// Paths that exist on the author's machine only: homes, and wherever this
/// checkout lies.
fn machine_paths(repository: &Repository, root: &str) -> Vec<Mistake> {
    // Joined here, or this file would break its own rule.
    let mut forbidden: Vec<String> = ["home", "root", "Users"]
        .iter()
        .map(|name| format!("/{name}/"))
        .collect();
    forbidden.push(format!("{}/", root.trim_end_matches('/')));
    let mut mistakes = Vec::new();
    for (file, text) in &repository.files {
        for (nth, line) in text.lines().enumerate() {
            if let Some(path) = forbidden.iter().find(|path| names_path(line, path)) {
                mistakes.push(Mistake::at(
                    file,
                    nth + 1,
                    format!("names {path}, which is a path of one machine"),
                ));
            }
        }
    }
    mistakes
}

/// True if the path starts there, rather than being part of a longer one.
fn names_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|letter| {
            letter.is_alphanumeric() || matches!(letter, '.' | '_' | '-' | '/' | '}' | ')')
        })
    })
}

fn licences(repository: &Repository) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let texts = [
        "LICENSE",
        "mtls-ebpf/LICENSE-MIT",
        "mtls-ebpf/LICENSE-GPL2",
        "mtls-common/LICENSE-MIT",
        "mtls-common/LICENSE-GPL2",
    ];
    for file in texts {
        if repository
            .get(file)
            .is_none_or(|text| text.trim().is_empty())
        {
            mistakes.push(Mistake::of(file, "the licence's text is missing"));
        }
    }
    for (file, text) in repository.below("", "Cargo.toml") {
        if !text.contains("[package]") {
            continue;
        }
        // What the kernel runs must be GPL-compatible, and the contract with it is shared.
        let shared = file.starts_with("mtls-ebpf/") || file.starts_with("mtls-common/");
        let expected = if shared {
            "license = \"MIT OR GPL-2.0-only\""
        } else {
            "license.workspace = true"
        };
        if !text
            .lines()
            .any(|line| line == expected || (!shared && line == "license = \"Apache-2.0\""))
        {
            mistakes.push(Mistake::of(file, format!("should say {expected}")));
        }
    }
    let section =
        |text: &str| text.contains("link_section = \"license\"") && text.contains("Dual MIT/GPL");
    if repository.get("mtls-ebpf/Cargo.toml").is_some()
        && !repository
            .below("mtls-ebpf/src/", ".rs")
            .any(|(_, text)| section(text))
    {
        mistakes.push(Mistake::of(
            "mtls-ebpf/Cargo.toml",
            "no licence section saying \"Dual MIT/GPL\": the kernel refuses helpers without it",
        ));
    }
    mistakes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(mistakes: &[Mistake]) -> Vec<String> {
        mistakes.iter().map(Mistake::to_string).collect()
    }

    #[test]
    fn sees_a_file_that_grew_too_long() {
        let repository = Repository::of(&[
            ("a.rs", &"x\n".repeat(500)),
            ("b.rs", &"x\n".repeat(501)),
            ("c.md", &"x\n".repeat(900)),
        ]);
        assert_eq!(
            words(&lengths(&repository)),
            ["b.rs:501: 501 lines; past 500 a file holds two stories: split it"]
        );
    }

    #[test]
    fn sees_paths_of_one_machine() {
        let home = format!("cd /{}/me/x", "home");
        let repository = Repository::of(&[
            ("a", &home),
            ("b", "cd /build/mtls/src"),
            ("c", "see src/build/mtls/src and /etc/hosts"),
        ]);
        let found = words(&machine_paths(&repository, "/build/mtls"));
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("a:1: ") && found[1].starts_with("b:1: "));
    }

    fn licensed() -> Vec<(&'static str, &'static str)> {
        vec![
            ("LICENSE", "text"),
            ("mtls-ebpf/LICENSE-MIT", "text"),
            ("mtls-ebpf/LICENSE-GPL2", "text"),
            ("mtls-common/LICENSE-MIT", "text"),
            ("mtls-common/LICENSE-GPL2", "text"),
            (
                "mtls-common/Cargo.toml",
                "[package]\nlicense = \"MIT OR GPL-2.0-only\"",
            ),
            (
                "mtls-ebpf/Cargo.toml",
                "[package]\nlicense = \"MIT OR GPL-2.0-only\"",
            ),
            (
                "mtls-ebpf/src/main.rs",
                "#[unsafe(link_section = \"license\")] static L: &[u8] = b\"Dual MIT/GPL\\0\";",
            ),
            ("xtask/Cargo.toml", "[package]\nlicense.workspace = true"),
        ]
    }

    #[test]
    fn sees_a_licence_out_of_place() {
        assert_eq!(words(&licences(&Repository::of(&licensed()))), [""; 0]);
        for (nth, spoilt) in [
            (0, ""),
            (1, " \n"),
            (5, "[package]\nlicense.workspace = true"),
            (7, "fn main() {}"),
            (8, "[package]\nname = \"x\""),
        ] {
            let mut files = licensed();
            files[nth].1 = spoilt;
            assert_eq!(
                licences(&Repository::of(&files)).len(),
                1,
                "{}",
                files[nth].0
            );
        }
    }
}
