//! Unsafe code is counted: docs/security.md names every file of the product that
//! has any, with how much and what for, and says no less and no more than there is.

use std::collections::BTreeMap;

use super::{Mistake, Repository, rust};

const PAGE: &str = "docs/security.md";
/// Where the page's text is written.
const SOURCE: &str = "tests/src/threats.txt";
/// What runs on a node.
const PRODUCT: &[&str] = &["mtls-daemon/src/", "mtls-ebpf/src/", "mtls-common/src/"];

pub(super) fn check(repository: &Repository) -> Vec<Mistake> {
    let mut told = told(repository.get(PAGE).unwrap_or_default());
    let mut mistakes = Vec::new();
    for folder in PRODUCT {
        for (file, text) in repository.below(folder, ".rs") {
            let found = rust::unsafe_places(text);
            let row = told
                .iter_mut()
                .filter(|(place, _)| is_in(file, place))
                .max_by_key(|(place, _)| place.len());
            match row {
                Some((_, left)) => *left -= i64::try_from(found).unwrap_or(i64::MAX),
                None if found > 0 => mistakes.push(Mistake::of(
                    file,
                    format!("{found} places of unsafe code, and {SOURCE} does not say what for"),
                )),
                None => {}
            }
        }
    }
    let wrong = told.into_iter().filter(|(_, left)| *left != 0);
    mistakes.extend(wrong.map(|(place, left)| {
        let what = match left {
            ..0 => format!("{} places of unsafe code more than {SOURCE} says", -left),
            _ => format!("{left} places of unsafe code fewer than {SOURCE} says"),
        };
        Mistake::of(place, what)
    }));
    mistakes
}

/// A file, or whatever a folder holds.
fn is_in(file: &str, place: &str) -> bool {
    let rest = file.strip_prefix(place);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Rows `| [`name`](../PLACE) | COUNT | what for |`: a file or a folder, and how
/// often it says `unsafe`.
fn told(page: &str) -> BTreeMap<&str, i64> {
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| [`")?.split(" | ");
        let (_, place) = cells.next()?.split_once("](../")?;
        let count = cells.next()?.parse().ok()?;
        Some((place.strip_suffix(')')?, count))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_more_fewer_and_untold() {
        let page = "| file | places | what for |\n| [`a.rs`](../mtls-daemon/src/a.rs) | 1 | calls |\n| [`kernel`](../mtls-ebpf/src) | 2 | reads |";
        let found = |a: &str, b: &str, kernel: &str| {
            let files = [
                (PAGE, page),
                ("mtls-daemon/src/a.rs", a),
                ("mtls-daemon/src/b.rs", b),
                ("mtls-ebpf/src/c.rs", kernel),
            ];
            let mistakes = check(&Repository::of(&files));
            mistakes.iter().map(Mistake::to_string).collect::<Vec<_>>()
        };
        let (one, two) = ("unsafe {}", "unsafe {} unsafe {}");
        assert_eq!(found(one, "", two), [""; 0]);
        assert!(found(two, "", two)[0].contains("a.rs:1: 1 places of unsafe code more"));
        assert!(found(one, "", one)[0].contains("src:1: 1 places of unsafe code fewer"));
        assert!(found(one, one, two)[0].contains("b.rs:1: 1 places of unsafe code, and"));
    }
}
