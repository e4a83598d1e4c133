//! The table of keys as documentation: docs/configuration.md, and the example
//! file of deploy/, which `mtls-daemon config example` prints too.

use std::fmt::Write as _;

use super::keys::{Fallback, Key, SECTIONS, Section};

/// Sections that stand in the example as comments: they are alternatives, or
/// not for everybody.
const ALTERNATIVES: &[&str] = &[
    "identity.files",
    "identity.spire",
    "identity.vault",
    "identity.cert-manager",
    "identity.secrets",
    "identity.federated",
    "identity.crl",
    "workload.disk-ca",
    "workload.files",
    "workload.spire",
    "workload.vault",
    "workload.cert-manager",
    "policy",
    "peer-authentication",
    "authorization-policy",
    "authorization-policy.rules",
    "authorization-policy.rules.from",
    "authorization-policy.rules.to",
    "kubernetes",
];

/// Unset by default, but written in the example: a workload must be somewhere.
const WRITTEN: &[&str] = &["workload.netns"];

const INTRODUCTION: &str = "\
# Configuration

One TOML file a node, by default `/etc/mtls-daemon/config.toml`.

- `mtls-daemon check-config FILE` reports every mistake in it, each with file, line, column and what to write instead.
- `mtls-daemon config show --effective` prints the configuration with every default filled in.
- `mtls-daemon config example` prints a file with every key.

Unknown keys are mistakes. SIGHUP reads the file again: keys marked *live* take effect then, keys marked *restart* when
the daemon is started again; a file with a mistake changes nothing. Durations are texts of numbers and `ms`, `s`, `m`,
`h` or `d`, such as `\"1h30m\"`; sizes are texts of a number and `B`, `KiB`, `MiB`, `GiB` or `TiB`. Paths are absolute.
";

/// docs/configuration.md.
pub fn markdown() -> String {
    let mut out = INTRODUCTION.to_owned();
    for section in SECTIONS {
        if section.path.is_empty() {
            out.push_str("\n## At the top\n\n");
        } else {
            let _ = write!(out, "\n## `{}`\n\n", section.header());
        }
        if !section.doc.is_empty() {
            let _ = write!(out, "{}\n\n", section.doc);
        }
        if section.keys.is_empty() {
            out.truncate(out.trim_end().len());
            out.push('\n');
            continue;
        }
        out.push_str("| key | value | default | change | meaning |\n|---|---|---|---|---|\n");
        for key in section.keys {
            let _ = writeln!(
                out,
                "| `{}` | {} | {} | {} | {} |",
                key.name,
                key.shape,
                default(key),
                key.applies,
                key.doc
            );
        }
    }
    out
}

fn default(key: &Key) -> String {
    match key.default {
        Fallback::Required => "required".to_owned(),
        Fallback::Is(value) => format!("`{value}`"),
        Fallback::Unset(then) => format!("unset: {then}"),
    }
}

/// A file with every key and its default.
pub fn example() -> String {
    let mut out = String::from(
        "# Configuration of mtls-daemon: every key, with its default where it has one.\n\
         # Check a file with: mtls-daemon check-config FILE\n\
         # \"live\" keys change at a reload (SIGHUP), \"restart\" keys when the daemon is started again.\n",
    );
    for section in SECTIONS {
        let commented = ALTERNATIVES.contains(&section.path);
        out.push('\n');
        comment(&mut out, section.doc);
        if !section.path.is_empty() {
            let mark = if commented { "#" } else { "" };
            let _ = writeln!(out, "{mark}{}", section.header());
        }
        for key in section.keys {
            example_key(&mut out, section, key, commented);
        }
    }
    out
}

fn example_key(out: &mut String, section: &Section, key: &Key, commented: bool) {
    let path = section.path_of(key.name);
    comment(out, key.doc);
    comment(
        out,
        &format!(
            "({}; default: {}; {})",
            key.shape,
            default(key).replace('`', ""),
            key.applies
        ),
    );
    let (mark, value) = match key.default {
        Fallback::Required => ("", key.example),
        Fallback::Is(value) => ("", value),
        Fallback::Unset(_) if WRITTEN.contains(&path.as_str()) => ("", key.example),
        Fallback::Unset(_) => ("#", key.example),
    };
    let mark = if commented { "#" } else { mark };
    if matches!(key.default, Fallback::Is(value) if value != key.example) {
        comment(out, &format!("Such as: {}", key.example));
    }
    let _ = writeln!(out, "{mark}{} = {value}", key.name);
}

/// Comment lines of at most 100 characters.
fn comment(out: &mut String, text: &str) {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.len() + word.len() > 96 {
            let _ = writeln!(out, "#{line}");
            line.clear();
        }
        line.push(' ');
        line.push_str(word);
    }
    if !line.is_empty() {
        let _ = writeln!(out, "#{line}");
    }
}
