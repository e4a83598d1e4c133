//! Just enough of Rust's grammar to see which modules a file refers to.

/// A path from the crate's root that a file names: `crate::a::b` is [a, b].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) line: usize,
    pub(super) path: Vec<String>,
}

/// Every path from the crate's root in a file whose own module path is
/// `module`, be it written with `crate` or with enough `super`s.
pub(super) fn references(text: &str, module: &[&str]) -> Vec<Reference> {
    let tokens = tokens(text);
    let mut references = Vec::new();
    let mut inline = Vec::new(); // the depths at which inline modules opened
    let mut depth = 0_usize;
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at..] {
            [
                Token {
                    kind: Kind::Word("mod"),
                    ..
                },
                Token {
                    kind: Kind::Word(_),
                    ..
                },
                Token {
                    kind: Kind::Mark('{'),
                    ..
                },
                ..,
            ] => {
                inline.push(depth);
                depth += 1;
                at += 3;
            }
            [
                Token {
                    kind: Kind::Mark('{'),
                    ..
                },
                ..,
            ] => {
                depth += 1;
                at += 1;
            }
            [
                Token {
                    kind: Kind::Mark('}'),
                    ..
                },
                ..,
            ] => {
                depth = depth.saturating_sub(1);
                inline.pop_if(|opened| *opened == depth);
                at += 1;
            }
            [
                Token {
                    kind: Kind::Word("crate"),
                    line,
                },
                Token {
                    kind: Kind::PathSeparator,
                    ..
                },
                ..,
            ] => {
                at = tree(&tokens, at + 2, *line, &[], &mut references);
            }
            [
                Token {
                    kind: Kind::Word("super"),
                    line,
                },
                Token {
                    kind: Kind::PathSeparator,
                    ..
                },
                ..,
            ] => {
                let mut up = 1;
                at += 2;
                while let [
                    Token {
                        kind: Kind::Word("super"),
                        ..
                    },
                    Token {
                        kind: Kind::PathSeparator,
                        ..
                    },
                    ..,
                ] = &tokens[at..]
                {
                    up += 1;
                    at += 2;
                }
                if up == module.len() + inline.len() {
                    at = tree(&tokens, at, *line, &[], &mut references);
                }
            }
            _ => at += 1,
        }
    }
    references
}

/// Reads what follows `crate::`, a path or a tree of them; returns where it ends.
fn tree(
    tokens: &[Token<'_>],
    mut at: usize,
    line: usize,
    before: &[String],
    found: &mut Vec<Reference>,
) -> usize {
    let mut path = before.to_vec();
    loop {
        match tokens.get(at).map(|token| &token.kind) {
            Some(Kind::Word(word)) => {
                path.push((*word).to_owned());
                at += 1;
                match tokens.get(at).map(|token| &token.kind) {
                    Some(Kind::PathSeparator) => at += 1,
                    _ => break,
                }
            }
            Some(Kind::Mark('{')) => {
                at += 1;
                loop {
                    match tokens.get(at).map(|token| (&token.kind, token.line)) {
                        Some((Kind::Mark('}'), _)) => return at + 1,
                        Some((Kind::Word("as"), _)) => at += 2,
                        Some((Kind::Mark(',' | '*'), _)) => at += 1,
                        Some((Kind::Word(_) | Kind::Mark('{'), line)) => {
                            at = tree(tokens, at, line, &path, found);
                        }
                        _ => return at,
                    }
                }
            }
            _ => break,
        }
    }
    found.push(Reference { line, path });
    at
}

/// True if the file declares an item of that name.
pub(super) fn declares(text: &str, name: &str) -> bool {
    const DECLARING: &[&str] = &[
        "fn",
        "struct",
        "enum",
        "union",
        "trait",
        "type",
        "const",
        "static",
        "mod",
        "macro_rules",
    ];
    let tokens = tokens(text);
    tokens.windows(3).any(
        |three| match [&three[0].kind, &three[1].kind, &three[2].kind] {
            [
                Kind::Word("macro_rules"),
                Kind::Mark('!'),
                Kind::Word(found),
            ] => *found == name,
            [Kind::Word(word), Kind::Word(found), _] => DECLARING.contains(word) && *found == name,
            _ => false,
        },
    )
}

/// How often the file says `unsafe`, but for attributes, which are checked where
/// they stand.
pub(super) fn unsafe_places(text: &str) -> usize {
    let tokens = tokens(text);
    let all = tokens.iter().enumerate();
    all.filter(|(at, token)| {
        let before = at.checked_sub(1).map(|before| &tokens[before].kind);
        matches!(token.kind, Kind::Word("unsafe")) && !matches!(before, Some(Kind::Mark('[')))
    })
    .count()
}

struct Token<'a> {
    kind: Kind<'a>,
    line: usize,
}

enum Kind<'a> {
    Word(&'a str),
    PathSeparator,
    Mark(char),
}

/// Words and marks, without comments and literals.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => quoted(rest, 1),
            'b' | 'c' if rest[1..].starts_with('"') => quoted(rest, 2),
            'r' | 'b' | 'c' if raw(rest).is_some() => raw(rest).unwrap_or(1),
            '\'' => character(rest),
            ':' if rest.starts_with("::") => {
                tokens.push(Token {
                    kind: Kind::PathSeparator,
                    line,
                });
                2
            }
            _ if is_word(first) => {
                let end = rest.find(|next| !is_word(next)).unwrap_or(rest.len());
                tokens.push(Token {
                    kind: Kind::Word(&rest[..end]),
                    line,
                });
                end
            }
            _ => {
                if !first.is_whitespace() {
                    tokens.push(Token {
                        kind: Kind::Mark(first),
                        line,
                    });
                }
                first.len_utf8()
            }
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

fn is_word(letter: char) -> bool {
    letter == '_' || letter.is_alphanumeric()
}

/// Block comments nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    text.len()
}

fn quoted(text: &str, start: usize) -> usize {
    let mut at = start;
    while at < text.len() {
        match text.as_bytes()[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// The length of a raw string, if one starts here.
fn raw(text: &str) -> Option<usize> {
    let after = text
        .strip_prefix("br")
        .or_else(|| text.strip_prefix("cr"))
        .or_else(|| text.strip_prefix('r'))?;
    let content = after.trim_start_matches('#');
    let end = format!("\"{}", "#".repeat(after.len() - content.len()));
    let content = content.strip_prefix('"')?;
    let start = text.len() - content.len();
    Some(
        content
            .find(&end)
            .map_or(text.len(), |found| start + found + end.len()),
    )
}

/// The length of a character literal; of a lifetime, the quote alone.
fn character(text: &str) -> usize {
    let mut letters = text.char_indices().skip(1);
    match (letters.next(), letters.next()) {
        (Some((_, '\\')), Some(_)) => text[3..]
            .find('\'')
            .map_or(text.len(), |found| 3 + found + 1),
        (Some(_), Some((end, '\''))) => end + 1,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str, module: &[&str]) -> Vec<String> {
        references(text, module)
            .into_iter()
            .map(|reference| reference.path.join("::"))
            .collect()
    }

    #[test]
    fn sees_paths_however_they_are_written() {
        let text = "use crate::{a::{b, c as d, *}, e};\nfn f() { crate::g::h::<u8>() }\nimpl crate::i::J for K {}";
        assert_eq!(paths(text, &["m"]), ["a::b", "a::c", "e", "g::h", "i::J"]);
    }

    #[test]
    fn follows_super_to_the_root_and_no_further() {
        assert_eq!(
            paths("use super::pool::Pool;", &["outbound"]),
            ["pool::Pool"]
        );
        assert_eq!(
            paths("use super::verify::Verifier;", &["tls", "accept"]),
            [""; 0]
        );
        assert_eq!(
            paths("use super::super::pool::Pool;", &["tls", "accept"]),
            ["pool::Pool"]
        );
        let text = "mod tests { use super::*; use super::super::pool::Pool; fn f() { {} } } use super::app;";
        assert_eq!(paths(text, &["outbound"]), ["pool::Pool", "app"]);
    }

    #[test]
    fn is_not_taken_in_by_comments_and_literals() {
        let text = r###"// crate::a
            /* crate::b /* crate::c */ crate::d */
            "crate::e \" crate::f" r#"crate::g " crate::h"# b"crate::i" '"' '\'' '{'
            fn f<'a>(x: &'a str) { crate::real::x } "###;
        assert_eq!(paths(text, &["m"]), ["real::x"]);
    }

    #[test]
    fn knows_the_line() {
        let found = references("\n/*\n*/ \"\n\"\nuse crate::{\n  a,\n  b::c,\n};", &["m"]);
        let lines: Vec<_> = found.iter().map(|reference| reference.line).collect();
        assert_eq!(lines, [6, 7]);
    }

    #[test]
    fn counts_unsafe_code_and_no_talk_of_it() {
        let text = "#![deny(unsafe_code)] // unsafe\n#[unsafe(no_mangle)]\nunsafe fn f() { unsafe { g() } }\nunsafe impl S for T {} \"unsafe\"";
        assert_eq!(unsafe_places(text), 3);
    }

    #[test]
    fn sees_declarations_and_not_mentions() {
        let text = "pub(crate) async fn carry(&self) {} pub struct Permit; macro_rules! reasons {} // fn gone\nlet x = absent();";
        assert!(declares(text, "carry") && declares(text, "Permit") && declares(text, "reasons"));
        assert!(!declares(text, "gone") && !declares(text, "absent"));
    }
}
