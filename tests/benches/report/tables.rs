//! Tables in Markdown.

use std::fmt::Write as _;

use super::goals;
use super::rows::{Better, COMPARED, FIRST, Row, SECTIONS, SIZES};
use super::terminal::number;
use crate::candidates::Candidate;
use crate::figures::{Figures, Measure};

/// The few that say most, for the front page.
pub(super) fn short(figures: &Figures) -> String {
    let mut text = table(figures, &FIRST, false);
    let _ = write!(
        text,
        "\nMedians of {}. More figures, how they were taken, and each goal met or not: \
         [tests/benches](tests/benches/README.md).\n",
        figures.machine.describe().trim_end_matches('.')
    );
    text
}

/// Everything, with the spread of the rounds.
pub(super) fn full(figures: &Figures) -> String {
    let mut text = format!("{}\n", figures.machine.describe());
    for section in SECTIONS {
        let table = table(figures, section.rows, true);
        if !table.is_empty() {
            let _ = write!(text, "\n### {}\n\n{table}", section.title);
        }
    }
    let sizes = sizes(figures);
    if !sizes.is_empty() {
        let _ = write!(
            text,
            "\n### A large node\n\nOurs, as shares of the same without it, in turn.\n\n\
             | | bulk, 1 | requests, 64 | connections, 64 |\n|---|--:|--:|--:|\n{sizes}"
        );
    }
    let _ = write!(text, "\n### Goals\n\n{}", goals::table(figures));
    text
}

fn sizes(figures: &Figures) -> String {
    let mut text = String::new();
    for (suffix, title) in SIZES {
        let shares: Option<Vec<_>> = COMPARED
            .iter()
            .map(|measure| goals::kept(figures, measure, suffix))
            .collect();
        if let Some(shares) = shares {
            let _ = write!(text, "| {title} |");
            for share in shares {
                let _ = write!(
                    text,
                    " {:.2} ({:.2} to {:.2}) |",
                    share.median, share.min, share.max
                );
            }
            text.push('\n');
        }
    }
    text
}

fn table(figures: &Figures, rows: &[Row], spread: bool) -> String {
    let measured: Vec<_> = rows
        .iter()
        .filter_map(|row| Some((row, figures.measures.get(row.measure)?)))
        .collect();
    let candidates: Vec<_> = Candidate::ALL
        .into_iter()
        .filter(|candidate| measured.iter().any(|(_, m)| m.of(*candidate).is_some()))
        .collect();
    if measured.is_empty() {
        return String::new();
    }
    let mut text = String::from("| |");
    for candidate in &candidates {
        let _ = write!(text, " {} |", candidate.name());
    }
    text.push_str(if spread {
        " ours, smallest to largest | ours / direct |\n|---|"
    } else {
        "\n|---|"
    });
    text.push_str(&"--:|".repeat(candidates.len() + if spread { 2 } else { 0 }));
    text.push('\n');
    for (row, measure) in measured {
        let unit = match measure.unit.as_str() {
            "" => String::new(),
            unit => format!(", {unit}"),
        };
        let _ = write!(text, "| {}{unit} |", row.title);
        let best = best(measure, row.better);
        for candidate in &candidates {
            let cell = measure.of(*candidate).map(|rounds| number(rounds.median));
            let cell = cell.unwrap_or_default();
            if best == Some(*candidate) {
                let _ = write!(text, " **{cell}** |");
            } else {
                let _ = write!(text, " {cell} |");
            }
        }
        if spread {
            let _ = write!(text, "{}", spread_of_ours(measure));
        }
        text.push('\n');
    }
    text
}

fn spread_of_ours(measure: &Measure) -> String {
    let Some(ours) = measure.of(Candidate::Ours) else {
        return " | |".into();
    };
    let spread = format!(" {} to {} |", number(ours.min), number(ours.max));
    match measure.ratio(Candidate::Ours, Candidate::Direct) {
        Some(ratio) => format!("{spread} {:.2} |", ratio.median),
        None => spread + " |",
    }
}

/// Of those that encrypt.
fn best(measure: &Measure, better: Better) -> Option<Candidate> {
    let encrypting = Candidate::ALL
        .into_iter()
        .filter(|candidate| !matches!(candidate, Candidate::Direct | Candidate::Chain));
    let medians: Vec<_> = encrypting
        .filter_map(|candidate| Some((candidate, measure.of(candidate)?.median)))
        .collect();
    let by_value = |a: &&(Candidate, f64), b: &&(Candidate, f64)| a.1.total_cmp(&b.1);
    let found = match better {
        Better::More => medians.iter().max_by(by_value),
        Better::Less => medians.iter().min_by(by_value),
    };
    found
        .filter(|_| medians.len() > 1)
        .map(|(candidate, _)| *candidate)
}
