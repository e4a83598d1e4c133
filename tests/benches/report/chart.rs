//! A chart in SVG, a panel a measure, that can be read on light and dark
//! ground.

use std::fmt::Write as _;

use super::rows::{Better, FIRST, Row};
use super::terminal::number;
use crate::candidates::Candidate;
use crate::figures::{Figures, Measure};

const COLUMNS: usize = 2;
const PANEL: f64 = 500.0;
const NAMES: f64 = 62.0;
const BARS: f64 = 320.0;
const LINE: f64 = 18.0;
const TITLE: f64 = 26.0;
const GAP: f64 = 14.0;
/// A bar longer than this many of ours is cut off: the others could not be
/// told apart beside it.
const LONGEST: f64 = 5.0;

const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#24292f}\
.t{font-weight:600}.u{fill:#57606a}.b{fill:#a8b1bb}.o{fill:#1a7f37}.p{fill:#d0d7de}\
.w{stroke:#57606a;stroke-width:1}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.u{fill:#9198a1}.b{fill:#656c76}\
.o{fill:#3fb950}.p{fill:#3d444d}.w{stroke:#9198a1}}";

pub(super) fn of(figures: &Figures) -> String {
    let panels: Vec<_> = FIRST
        .iter()
        .filter_map(|row| Some((row, figures.measures.get(row.measure)?)))
        .collect();
    let mut body = String::new();
    let mut top = 0.0;
    for line in panels.chunks(COLUMNS) {
        let mut height: f64 = 0.0;
        for ((row, measure), left) in line.iter().zip([0.0, PANEL]) {
            height = height.max(panel(&mut body, row, measure, left, top));
        }
        top += height + GAP;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {top:.0}\" \
         width=\"{width:.0}\" height=\"{top:.0}\" role=\"img\" \
         aria-label=\"Benchmark: medians by measure and candidate\">\n\
         <style>{STYLE}</style>\n{body}</svg>\n",
        width = PANEL * 2.0,
    )
}

/// Draws one measure; how high it is.
fn panel(body: &mut String, row: &Row, measure: &Measure, left: f64, top: f64) -> f64 {
    let better = match row.better {
        Better::More => "more is better",
        Better::Less => "less is better",
    };
    let _ = writeln!(
        body,
        "<text x=\"{left:.0}\" y=\"{:.0}\"><tspan class=\"t\">{}</tspan> \
         <tspan class=\"u\">{}, {better}</tspan></text>",
        top + 14.0,
        row.title,
        measure.unit
    );
    let shown: Vec<_> = Candidate::ALL
        .into_iter()
        .filter_map(|candidate| Some((candidate, measure.of(candidate)?)))
        .collect();
    let longest = shown.iter().map(|(_, r)| r.median).fold(0.0, f64::max);
    let ours = measure.of(Candidate::Ours).map_or(longest, |r| r.median);
    let scale = BARS / longest.min(ours * LONGEST).max(f64::MIN_POSITIVE);
    for ((candidate, rounds), nth) in shown.iter().zip(0_u8..) {
        let y = top + TITLE + LINE * f64::from(nth);
        let class = match candidate {
            Candidate::Ours => "o",
            Candidate::Direct | Candidate::Chain => "p",
            _ => "b",
        };
        let bar = (rounds.median * scale).min(BARS);
        let cut = if rounds.median * scale > BARS + 0.5 {
            " →"
        } else {
            ""
        };
        let x = left + NAMES;
        let middle = y + 6.0;
        let _ = writeln!(
            body,
            "<text x=\"{left:.0}\" y=\"{:.0}\">{}</text>\
             <rect class=\"{class}\" x=\"{x:.0}\" y=\"{y:.1}\" width=\"{bar:.1}\" height=\"12\" rx=\"2\"/>\
             <line class=\"w\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>\
             <text class=\"u\" x=\"{:.1}\" y=\"{:.0}\">{}{cut}</text>",
            y + 10.0,
            candidate.name(),
            x + (rounds.min * scale).min(BARS),
            x + (rounds.max * scale).min(BARS),
            x + (rounds.max.max(rounds.median) * scale).min(BARS) + 6.0,
            y + 10.0,
            number(rounds.median),
        );
    }
    let lines = u8::try_from(shown.len()).unwrap_or(u8::MAX);
    TITLE + LINE * f64::from(lines)
}
