//! Mistakes in a configuration file, each with its place and its remedy.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// All mistakes, in the order of their files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistakes {
    pub list: Vec<Mistake>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file's name, as the operator gave it.
    pub file: Arc<str>,
    /// `None` when the file could not be read at all.
    pub place: Option<Place>,
    pub what: String,
    /// What to write or do instead.
    pub remedy: String,
}

/// Counted from 1; columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

/// A mistake before its place is known in lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) span: Range<usize>,
    pub(super) what: String,
    pub(super) remedy: String,
}

impl Complaint {
    pub(super) fn new(
        span: Range<usize>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            span,
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

impl Mistakes {
    pub(super) fn in_text(file: &str, text: &str, mut complaints: Vec<Complaint>) -> Self {
        complaints.sort_by_key(|complaint| (complaint.span.start, complaint.span.end));
        let file: Arc<str> = Arc::from(file);
        let list = complaints
            .into_iter()
            .map(|complaint| Mistake {
                file: Arc::clone(&file),
                place: Some(place_of(text, complaint.span.start)),
                what: complaint.what,
                remedy: complaint.remedy,
            })
            .collect();
        Self { list }
    }

    pub(super) fn unreadable(file: &str, error: &std::io::Error) -> Self {
        let what = format!("the configuration cannot be read: {error}");
        Self::of_file(
            file,
            what,
            "give the right file with --config; `mtls-daemon config example` prints one to start from",
        )
    }

    /// One of a file as a whole.
    pub(super) fn of_file(file: &str, what: String, remedy: &str) -> Self {
        Self {
            list: vec![Mistake {
                file: Arc::from(file),
                place: None,
                what,
                remedy: remedy.to_owned(),
            }],
        }
    }

    pub(super) fn append(&mut self, more: Self) {
        self.list.extend(more.list);
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// One line for each: `file:line:column: what; remedy`.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.list.iter().map(|mistake| {
            let Mistake {
                file,
                place,
                what,
                remedy,
            } = mistake;
            match place {
                Some(Place { line, column }) => format!("{file}:{line}:{column}: {what}; {remedy}"),
                None => format!("{file}: {what}; {remedy}"),
            }
        })
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, line) in self.lines().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&line)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// Line and column of a byte offset; an offset past the end is the end.
pub(super) fn place_of(text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Place {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
    }
}

/// The known word that `word` was probably meant to be.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('_', "-");
    let wanted = plain(word);
    known
        .into_iter()
        .map(|candidate| (distance(&wanted, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3).min(3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Letters to insert, drop, change or swap with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1)
                .min(row[j - 1] + 1)
                .min(rows[i - 1][j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters_from_one() {
        let text = "a = 1\nné = 2\n";
        assert_eq!(place_of(text, 0), Place { line: 1, column: 1 });
        assert_eq!(
            place_of(text, text.find('2').unwrap()),
            Place { line: 2, column: 6 }
        );
        assert_eq!(place_of(text, 999), Place { line: 3, column: 1 });
    }

    #[test]
    fn a_slip_of_the_fingers_is_understood() {
        let known = ["handshake", "connect", "tunnel_idle", "drain"];
        assert_eq!(nearest("hanshake", known), Some("handshake"));
        assert_eq!(nearest("darin", known), Some("drain"));
        assert_eq!(nearest("tunnel-idle", known), Some("tunnel_idle"));
        assert_eq!(nearest("Connect", known), Some("connect"));
        assert_eq!(nearest("elephant", known), None);
    }
}
