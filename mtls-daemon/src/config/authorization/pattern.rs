//! The patterns that Istio has for texts: exact, `start*`, `*end` and `*`.

use std::fmt;

/// What a text must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    /// `*`: any, but not none.
    Present,
}

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPattern {
    Empty,
    /// A `*` somewhere else than at one end.
    Star,
}

impl NoPattern {
    pub fn explain(self, text: &str) -> String {
        match self {
            Self::Empty => "an empty text matches nothing".to_owned(),
            Self::Star => format!("{text:?} has a * in its middle, or two"),
        }
    }
}

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, NoPattern> {
        let (pattern, rest) = if text == "*" {
            (Self::Present, "")
        } else if let Some(start) = text.strip_suffix('*') {
            (Self::Prefix(start.to_owned()), start)
        } else if let Some(end) = text.strip_prefix('*') {
            (Self::Suffix(end.to_owned()), end)
        } else if text.is_empty() {
            return Err(NoPattern::Empty);
        } else {
            (Self::Exact(text.to_owned()), text)
        };
        if rest.contains('*') {
            return Err(NoPattern::Star);
        }
        Ok(pattern)
    }

    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(whole) => text == whole,
            Self::Prefix(start) => text.starts_with(start.as_str()),
            Self::Suffix(end) => text.ends_with(end.as_str()),
            Self::Present => !text.is_empty(),
        }
    }

    /// Whether everything that `other` matches is matched by this one.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Present, _) => true,
            (_, Self::Exact(text)) => self.matches(text),
            (Self::Prefix(start), Self::Prefix(longer)) => longer.starts_with(start.as_str()),
            (Self::Suffix(end), Self::Suffix(longer)) => longer.ends_with(end.as_str()),
            _ => false,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(start) => write!(f, "{start}*"),
            Self::Suffix(end) => write!(f, "*{end}"),
            Self::Present => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn a_star_stands_at_one_end_or_alone() {
        assert!(pattern("a/b").matches("a/b"));
        assert!(!pattern("a/b").matches("a/bc"));
        assert!(pattern("a/*").matches("a/bc"));
        assert!(!pattern("a/*").matches("xa/bc"));
        assert!(pattern("*/c").matches("b/c"));
        assert!(!pattern("*/c").matches("b/cd"));
        assert!(pattern("*").matches("x"));
        assert!(!pattern("*").matches(""), "any, but not none");
        for bad in ["a*b", "*a*", "**", "a**"] {
            assert_eq!(Pattern::parse(bad), Err(NoPattern::Star), "{bad}");
        }
        assert_eq!(Pattern::parse(""), Err(NoPattern::Empty));
    }

    #[test]
    fn who_covers_whom() {
        for (wide, narrow) in [
            ("*", "a*"),
            ("a*", "a"),
            ("a*", "ab*"),
            ("*b", "*ab"),
            ("a", "a"),
        ] {
            assert!(pattern(wide).covers(&pattern(narrow)), "{wide} {narrow}");
        }
        for (one, other) in [("a", "a*"), ("ab*", "a*"), ("*b", "b*"), ("a*", "*a")] {
            assert!(!pattern(one).covers(&pattern(other)), "{one} {other}");
        }
    }
}
