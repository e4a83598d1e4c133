//! Tables of figures: medians, how far apart the rounds were, and ratios.

use std::fmt::Write as _;

use crate::candidates::Candidate;
use crate::figures::{Measure, Rounds};

/// A line a measure and candidate: the median, its spread, and its ratio to
/// plain TCP in the same round.
pub(crate) fn for_terminal<'a>(
    measures: impl IntoIterator<Item = (&'a String, &'a Measure)>,
) -> String {
    let mut text = String::new();
    for (name, measure) in measures {
        let _ = writeln!(text, "  {name} ({})", measure.unit);
        for candidate in Candidate::ALL {
            let Some(rounds) = measure.of(candidate) else {
                continue;
            };
            let _ = write!(
                text,
                "    {:<8} {:>10}  {:>10} .. {:<10}",
                candidate.name(),
                number(rounds.median),
                number(rounds.min),
                number(rounds.max)
            );
            if let Some(ratio) = measure.ratio(candidate, Candidate::Direct)
                && candidate != Candidate::Direct
            {
                let _ = write!(text, " {}", as_ratio(&ratio));
            }
            text.push('\n');
        }
    }
    text
}

fn as_ratio(ratio: &Rounds) -> String {
    format!(
        "{:.2} of direct ({:.2} .. {:.2})",
        ratio.median, ratio.min, ratio.max
    )
}

/// Three digits that say something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 10_000.0 => grouped(value),
        large if large >= 100.0 => format!("{value:.0}"),
        medium if medium >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// 61234.5 is 61,234.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_have_the_digits_that_matter() {
        assert_eq!(number(61_234.4), "61,234");
        assert_eq!(number(1_234_567.0), "1,234,567");
        assert_eq!(number(812.4), "812");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(0.456), "0.46");
    }
}
