//! What a whole run says of the tests that docs/security.md names.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use crate::command;
use crate::failure::{Failure, Result, While};
use crate::places;

const SECURITY: &str = "docs/security.md";

/// Test -> whether it passed, by the last part of its name.
#[derive(Default)]
pub(super) struct Results(HashMap<String, bool>);

/// One line of a table of docs/security.md.
#[derive(Debug, PartialEq, Eq)]
struct Row<'d> {
    what: &'d str,
    tests: Vec<&'d str>,
}

impl Results {
    /// A line of cargo test's.
    pub(super) fn hear(&mut self, line: &str) {
        let Some((name, outcome)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        else {
            return;
        };
        // A property's or a should_panic's name goes on behind a dash.
        let name = name.split(" - ").next().unwrap_or(name);
        let function = name.rsplit("::").next().unwrap_or(name);
        let passed = outcome.trim_end() == "ok";
        // Two of one name have to pass both.
        *self.0.entry(function.to_owned()).or_insert(true) &= passed;
    }

    /// Fails unless every test that the tables name has run and passed; writes
    /// the tables with the outcome where that is asked for.
    pub(super) fn judge(&self, record: Option<&Path>) -> Result {
        let page = std::fs::read_to_string(places::repository().join(SECURITY)).doing(SECURITY)?;
        let rows = rows(&page);
        let missing = self.missing(&rows);
        if !missing.is_empty() {
            return Err(Failure::new(format!(
                "{SECURITY} names what this run has not seen pass: {}",
                missing.join(", ")
            )));
        }
        let Some(record) = record else { return Ok(()) };
        let ask = |program: &str, words: &[&str]| {
            let mut asked = Command::new(program);
            asked.args(words).current_dir(places::repository());
            command::output(&mut asked).map(|said| said.trim().to_owned())
        };
        let page = self.page(
            &rows,
            &ask("date", &["-u", "+%F"])?,
            &ask("git", &["rev-parse", "--short", "HEAD"])?,
            &ask("uname", &["-r"])?,
        );
        std::fs::write(record, page).doing(format_args!("writing {}", record.display()))
    }

    fn missing<'d>(&self, rows: &[Row<'d>]) -> Vec<&'d str> {
        let tests = rows.iter().flat_map(|row| &row.tests);
        let mut missing: Vec<_> = tests
            .filter(|test| self.0.get(**test) != Some(&true))
            .copied()
            .collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    fn page(&self, rows: &[Row<'_>], date: &str, commit: &str, kernel: &str) -> String {
        let mut page = format!(
            "# What a run said\n\n\
             Each claim, attack and fault of [security.md](security.md) with the tests that stand for it, as one run\n\
             of all tests found them. Written by `cargo xtask test --record docs/security-run.md`; `cargo xtask test`\n\
             fails where one of them is missing or did not pass.\n\n\
             {date}, commit {commit}, Linux {kernel}: {} of {} tests passed; {} are named here.\n\n\
             | what | passed |\n|---|---|\n",
            self.0.values().filter(|passed| **passed).count(),
            self.0.len(),
            {
                let mut named: Vec<_> = rows.iter().flat_map(|row| &row.tests).collect();
                named.sort_unstable();
                named.dedup();
                named.len()
            }
        );
        for row in rows {
            let tests: Vec<_> = row.tests.iter().map(|test| format!("`{test}`")).collect();
            page += &format!("| {} | {} |\n", row.what, tests.join(" "));
        }
        page
    }
}

/// The lines of the page's tables that name tests.
fn rows(page: &str) -> Vec<Row<'_>> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("| "));
    let rows = lines.filter_map(|line| {
        let (what, rest) = line.split_once(" | ")?;
        let tests = rest.split("[`").skip(1);
        let tests = tests.filter_map(|link| Some(link.split_once("()`](../")?.0));
        Some(Row {
            what,
            tests: tests.collect(),
        })
    });
    rows.filter(|row| !row.tests.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
        # Security\n\n| claim | held by | how |\n|---|---|---|\n\
        | Nothing leaks. | [`wire()`](../tests/it/wire.rs) [`pool()`](../a/b.rs) | It is looked at. |\n\
        | Keys stay. | [`wire()`](../tests/it/wire.rs) | [how](how.md) |\n";

    fn heard(lines: &[&str]) -> Results {
        let mut results = Results::default();
        lines.iter().for_each(|line| results.hear(line));
        results
    }

    #[test]
    fn the_tables_are_read() {
        let row = |what, tests| Row { what, tests };
        let both = vec!["wire", "pool"];
        let rows = rows(PAGE);
        assert_eq!(
            rows,
            [row("Nothing leaks.", both), row("Keys stay.", vec!["wire"])]
        );
    }

    #[test]
    fn each_test_has_to_run_and_to_pass() {
        let rows = rows(PAGE);
        let run = [
            "running 2 tests",
            "test story::wire ... ok",
            "test pool ... ok",
        ];
        assert!(heard(&run).missing(&rows).is_empty());
        let run = ["test story::wire ... ok", "test poolside ... ok"];
        assert_eq!(heard(&run).missing(&rows), ["pool"]);
        let run = [
            "test wire ... ok",
            "test other::wire ... FAILED",
            "test pool ... ignored",
        ];
        assert_eq!(heard(&run).missing(&rows), ["pool", "wire"]);
    }
}
