//! Puts a file of figures where readers look: tables into the READMEs, the
//! chart and the figures themselves beside the benchmark.

use std::fs;
use std::path::Path;

use mtls_tests::{Doing, Error, Result};

use super::{chart, tables};
use crate::figures::Figures;

const BEGIN: &str = "<!-- figures: written by cargo xtask bench --publish -->";
const END: &str = "<!-- end of figures -->";

pub(crate) fn publish(file: &str) -> Result {
    let figures = Figures::read(Path::new(file))?
        .ok_or_else(|| Error::Unexpected(format!("there is no {file}")))?;
    let repository = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let benches = repository.join("tests/benches");
    replace(&repository.join("README.md"), &tables::short(&figures))?;
    replace(&benches.join("README.md"), &tables::full(&figures))?;
    let write = |name: &str, text: String| {
        let path = benches.join(name);
        fs::write(&path, text).doing(|| format!("writing {}", path.display()))
    };
    write("chart.svg", chart::of(&figures))?;
    figures.write(&benches.join("figures.json"))
}

/// What stands between the two marks.
fn replace(file: &Path, with: &str) -> Result {
    let text = fs::read_to_string(file).doing(|| format!("reading {}", file.display()))?;
    let text = between_marks(&text, with).ok_or_else(|| Error::Unreadable {
        what: file.display().to_string(),
        why: format!("it has no place for figures, between {BEGIN} and {END}"),
    })?;
    fs::write(file, text).doing(|| format!("writing {}", file.display()))
}

fn between_marks(text: &str, with: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{with}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_what_stands_between_the_marks() {
        let page = format!("a\n{BEGIN}\nold\n{END}\nb");
        let new = between_marks(&page, "new").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\n\nnew\n{END}\nb"));
        assert_eq!(between_marks(&new, "new").unwrap(), new, "again");
        assert_eq!(between_marks("no marks", "new"), None);
    }
}
