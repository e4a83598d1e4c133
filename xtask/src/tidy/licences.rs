//! What cargo-deny would say of licences, without it: each dependency may be
//! used under one that deny.toml allows.

use std::collections::BTreeSet;

use super::{Mistake, Repository};

const RULES: &str = "deny.toml";

pub(super) fn check(repository: &Repository) -> Vec<Mistake> {
    let allowed = allowed(repository.get(RULES).unwrap_or_default());
    if allowed.is_empty() && !repository.licences.is_empty() {
        return vec![Mistake::of(RULES, "allows no licence")];
    }
    let refused = repository.licences.iter().filter(|(_, licence)| {
        let mut words = Words::of(licence);
        // What is left over was not understood.
        !(either(&mut words, &allowed) && words.next().is_none())
    });
    refused
        .map(|(package, licence)| {
            let licence = match licence.as_str() {
                "" => "no licence",
                licence => licence,
            };
            let what = format!("{package} is under {licence}, which it does not allow");
            Mistake::of(RULES, what)
        })
        .collect()
}

/// The texts of `allow = [...]` in `[licenses]`.
fn allowed(rules: &str) -> BTreeSet<&str> {
    let section = rules.split("[licenses]").nth(1).unwrap_or_default();
    let list = section.split("allow = [").nth(1).unwrap_or_default();
    let list = list.split(']').next().unwrap_or_default();
    list.split('"').skip(1).step_by(2).collect()
}

/// Of an SPDX expression; `/` is how packages once wrote OR.
struct Words<'a>(std::iter::Peekable<std::vec::IntoIter<&'a str>>);

impl<'a> Words<'a> {
    fn of(licence: &'a str) -> Self {
        let mut words = Vec::new();
        for word in licence.split_whitespace() {
            let mut rest = word;
            while let Some(at) = rest.find(['(', ')', '/']) {
                words.extend([&rest[..at], &rest[at..=at]]);
                rest = &rest[at + 1..];
            }
            words.push(rest);
        }
        words.retain(|word| !word.is_empty());
        Self(words.into_iter().peekable())
    }

    fn next(&mut self) -> Option<&'a str> {
        self.0.next()
    }

    fn takes(&mut self, wanted: &[&str]) -> bool {
        self.0.next_if(|word| wanted.contains(word)).is_some()
    }
}

fn either(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let mut good = both(words, allowed);
    while words.takes(&["OR", "/"]) {
        good |= both(words, allowed);
    }
    good
}

fn both(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let mut good = one(words, allowed);
    while words.takes(&["AND"]) {
        good &= one(words, allowed);
    }
    good
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    if words.takes(&["("]) {
        let good = either(words, allowed);
        return words.takes(&[")"]) && good;
    }
    let Some(licence) = words.next() else {
        return false;
    };
    if words.takes(&["WITH"]) {
        let exception = words.next().unwrap_or_default();
        return allowed.contains(format!("{licence} WITH {exception}").as_str());
    }
    allowed.contains(licence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(licence: &str) -> bool {
        let rules = "[bans]\nallow = [\"GPL-3.0\"]\n[licenses]\nallow = [\n    \"MIT\",\n    \
                     \"Apache-2.0\",\n    \"Apache-2.0 WITH LLVM-exception\",\n]\n";
        let mut repository = Repository::of(&[(RULES, rules)]);
        let licence = ("x v1.0.0".to_owned(), licence.to_owned());
        repository.licences = [licence].into();
        !check(&repository).is_empty()
    }

    #[test]
    fn one_that_is_allowed_is_enough_and_all_that_hold_must_be() {
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "GPL-3.0/MIT",
            "MIT AND Apache-2.0",
            "MIT AND (GPL-3.0 OR Apache-2.0)",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(!refused(good), "{good}");
        }
        for bad in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT OR Apache-2.0) AND GPL-3.0",
            "MIT WITH LLVM-exception",
            "MIT MIT",
            "(MIT",
            "GPL-3.0 OR",
        ] {
            assert!(refused(bad), "{bad}");
        }
    }
}
