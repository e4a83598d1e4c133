//! What Markdown files point at exists: files, headings, and functions.
//!
//! A link whose text is code and whose target is a Rust file names an item of
//! that file: [`Pool::checkout`](mtls-daemon/src/pool.rs) fails as soon as
//! pool.rs declares no `checkout`.

use std::collections::BTreeSet;

use super::{Mistake, Repository, rust};

pub(super) fn check(repository: &Repository) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for (file, text) in repository.below("", ".md") {
        for (nth, line) in prose(text) {
            for link in links(line) {
                if let Some(what) = broken(repository, file, &link) {
                    mistakes.push(Mistake::at(file, nth, what));
                }
            }
            for path in named_files(line) {
                if !exists(repository, path) {
                    mistakes.push(Mistake::at(file, nth, format!("there is no {path}")));
                }
            }
        }
    }
    mistakes
}

#[derive(Debug, PartialEq, Eq)]
struct Link<'a> {
    text: &'a str,
    target: &'a str,
}

/// Lines outside of fenced code, numbered.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(nth, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((nth + 1, line))
    })
}

/// `[text](target)`, several a line.
fn links(line: &str) -> Vec<Link<'_>> {
    let mut links = Vec::new();
    let mut rest = line;
    while let Some(middle) = rest.find("](") {
        let (before, after) = (&rest[..middle], &rest[middle + 2..]);
        let Some(end) = after.find(')') else { break };
        if let Some(start) = before.rfind('[') {
            links.push(Link {
                text: &before[start + 1..],
                target: &after[..end],
            });
        }
        rest = &after[end..];
    }
    links
}

/// Paths in code spans: `mtls-daemon/src/pool.rs`.
fn named_files(line: &str) -> impl Iterator<Item = &str> {
    let spans = line.split('`').skip(1).step_by(2);
    spans
        .filter(|span| {
            span.contains('/')
                && !span.starts_with('/')
                && !span.contains([' ', '*', '<', '$', '{', '~'])
        })
        .filter(|span| {
            [".rs", ".md", ".toml"]
                .iter()
                .any(|ending| span.ends_with(ending))
        })
}

fn broken(repository: &Repository, from: &str, link: &Link<'_>) -> Option<String> {
    if link.target.contains("://") || link.target.starts_with("mailto:") {
        return None;
    }
    let (path, heading) = link
        .target
        .split_once('#')
        .map_or((link.target, None), |(path, heading)| (path, Some(heading)));
    let Some(path) = resolve(from, path) else {
        return Some(format!("link to {} leaves the repository", link.target));
    };
    if !exists(repository, &path) {
        return Some(format!("link to {}: there is no {path}", link.target));
    }
    let text = repository.get(&path).unwrap_or_default();
    if let (Some(heading), true) = (heading, path.ends_with(".md")) {
        return (!headings(text).contains(heading))
            .then(|| format!("link to {}: {path} has no such heading", link.target));
    }
    let item = item_name(link.text).filter(|_| path.ends_with(".rs"))?;
    (!rust::declares(text, item)).then(|| format!("{path} declares no `{item}`"))
}

/// `Pool::checkout()` in a code span is `checkout`; a file's name is no item.
fn item_name(text: &str) -> Option<&str> {
    let code = text.strip_prefix('`')?.strip_suffix('`')?;
    let name = code.rsplit("::").next()?;
    let name = name.split_once('(').map_or(name, |(name, _)| name);
    let is_name = !name.is_empty()
        && name
            .chars()
            .all(|letter| letter == '_' || letter.is_alphanumeric());
    is_name.then_some(name)
}

fn resolve(from: &str, path: &str) -> Option<String> {
    let mut whole: Vec<_> = from.split('/').collect();
    if path.is_empty() {
        return Some(from.to_owned());
    }
    whole.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(whole.pop()?),
            name => whole.push(name),
        }
    }
    Some(whole.join("/"))
}

/// A file, a folder with files in it, or the root itself.
fn exists(repository: &Repository, path: &str) -> bool {
    let folder = format!("{path}/");
    path.is_empty()
        || repository.get(path).is_some()
        || repository
            .files
            .keys()
            .any(|name| name.starts_with(&folder))
}

/// The anchors that a Markdown file's headings make.
fn headings(text: &str) -> BTreeSet<String> {
    let titles = prose(text).filter_map(|(_, line)| {
        line.strip_prefix('#')
            .map(|rest| rest.trim_start_matches('#').trim())
    });
    let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    titles
        .map(|title| {
            title
                .to_lowercase()
                .chars()
                .filter(kept)
                .map(|letter| if letter == ' ' { '-' } else { letter })
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(readme: &str) -> Vec<String> {
        let repository = Repository::of(&[
            ("docs/README.md", readme),
            (
                "docs/other.md",
                "# A Title, with marks\n```\n# no heading\n```\n",
            ),
            ("src/pool.rs", "impl Pool { pub fn checkout() {} }"),
        ]);
        check(&repository).iter().map(Mistake::to_string).collect()
    }

    #[test]
    fn is_content_with_what_exists() {
        let text = "[a](other.md) [b](../src/pool.rs) [`Pool::checkout()`](../src/pool.rs) [c](../src)\n\
                    [d](other.md#a-title-with-marks) [e](https://example.org/x) [f](#top) `src/pool.rs` `/etc/x.toml`\n# Top";
        assert_eq!(mistakes(text), [""; 0]);
    }

    #[test]
    fn sees_a_link_to_nothing() {
        assert_eq!(
            mistakes("\n[a](gone.md)"),
            ["docs/README.md:2: link to gone.md: there is no docs/gone.md"]
        );
        assert_eq!(
            mistakes("[a](../../x)"),
            ["docs/README.md:1: link to ../../x leaves the repository"]
        );
        assert_eq!(
            mistakes("[a](other.md#no-heading)"),
            ["docs/README.md:1: link to other.md#no-heading: docs/other.md has no such heading"]
        );
    }

    #[test]
    fn sees_a_function_that_is_gone() {
        assert_eq!(
            mistakes("[`Pool::lease()`](../src/pool.rs)"),
            ["docs/README.md:1: src/pool.rs declares no `lease`"]
        );
    }

    #[test]
    fn sees_a_file_that_is_gone() {
        assert_eq!(
            mistakes("the pool (`src/tank.rs`)"),
            ["docs/README.md:1: there is no src/tank.rs"]
        );
    }

    #[test]
    fn leaves_fenced_code_alone() {
        assert_eq!(mistakes("```\n[a](gone.md) `src/tank.rs`\n```"), [""; 0]);
    }
}
