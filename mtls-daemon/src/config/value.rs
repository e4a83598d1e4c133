//! Values: what a piece of TOML means, and what to write when it means nothing.

use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;
use tracing_subscriber::EnvFilter;

use crate::spiffe::{SpiffeId, TrustDomain};

use super::authorization::Action;
use super::keys::Shape;
use super::mistakes::{Complaint, nearest};
use super::units::{parse_duration, parse_size};
use super::{
    Connect, CrlDepth, CrlPolicy, FileUrl, ForeignPastExpiry, IstioPolicies, LogFormat, Mode,
    Outside, SelectedBy, Selector, ServerUrl, ServicePort, Udp, Unknown, VethGate,
};

/// A type that the reader can make of a TOML value of some shape. What is
/// wrong goes to `wrong`; `None` means that something did.
pub(super) trait Value: Sized {
    fn read(
        value: &Spanned<DeValue<'_>>,
        shape: &Shape,
        wrong: &mut Vec<Complaint>,
    ) -> Option<Self>;
}

/// Bytes, as the file writes them: `"64MiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) u64);

/// The text of a string value, or a complaint that shows how it should look.
pub(super) fn text<'a>(
    value: &'a Spanned<DeValue<'_>>,
    wanted: &str,
    example: &str,
    wrong: &mut Vec<Complaint>,
) -> Option<&'a str> {
    let found = value.get_ref().as_str();
    if found.is_none() {
        wrong.push(Complaint::new(
            value.span(),
            format!("expected {wanted}, found {}", kind(value)),
            format!("write a text in quotes, such as {example}"),
        ));
    }
    found
}

pub(super) fn kind(value: &Spanned<DeValue<'_>>) -> &'static str {
    match value.get_ref() {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn integer(value: &Spanned<DeValue<'_>>, shape: &Shape, wrong: &mut Vec<Complaint>) -> Option<u64> {
    let bounds = match shape {
        Shape::Count(min, max) => *min..=*max,
        Shape::Port => 1..=u64::from(u16::MAX),
        _ => 0..=u64::MAX,
    };
    let number = value
        .get_ref()
        .as_integer()
        .and_then(|number| i64::from_str_radix(number.as_str(), number.radix()).ok());
    let Some(number) = number else {
        wrong.push(Complaint::new(
            value.span(),
            format!("expected a {shape}, found {}", kind(value)),
            format!("write a number without quotes, such as {}", bounds.start()),
        ));
        return None;
    };
    match u64::try_from(number) {
        Ok(number) if bounds.contains(&number) => Some(number),
        _ => {
            wrong.push(Complaint::new(
                value.span(),
                format!("{number} is out of range"),
                format!("write a {shape}"),
            ));
            None
        }
    }
}

macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn read(
                value: &Spanned<DeValue<'_>>,
                shape: &Shape,
                wrong: &mut Vec<Complaint>,
            ) -> Option<Self> {
                let number = integer(value, shape, wrong)?;
                let converted = Self::try_from(number).ok();
                if converted.is_none() {
                    wrong.push(Complaint::new(
                        value.span(),
                        format!("{number} is too large"),
                        format!("write at most {}", Self::MAX),
                    ));
                }
                converted
            }
        }
    )*};
}
numbers!(u16, u32, usize);

impl Value for bool {
    fn read(value: &Spanned<DeValue<'_>>, _: &Shape, wrong: &mut Vec<Complaint>) -> Option<Self> {
        let found = value.get_ref().as_bool();
        if found.is_none() {
            wrong.push(Complaint::new(
                value.span(),
                format!("expected true or false, found {}", kind(value)),
                "write true or false, without quotes",
            ));
        }
        found
    }
}

impl Value for Duration {
    fn read(
        value: &Spanned<DeValue<'_>>,
        shape: &Shape,
        wrong: &mut Vec<Complaint>,
    ) -> Option<Self> {
        let text = text(value, "a duration", r#""5s""#, wrong)?;
        let Some(duration) = parse_duration(text) else {
            wrong.push(Complaint::new(
                value.span(),
                format!("{text:?} is no duration"),
                r#"write a number and ms, s, m, h or d, such as "500ms", "5s" or "1h30m""#,
            ));
            return None;
        };
        if let Shape::Duration(min, max) = shape
            && !(*min..=*max).contains(&duration)
        {
            wrong.push(Complaint::new(
                value.span(),
                format!("{text:?} is out of range"),
                format!("write a {shape}"),
            ));
            return None;
        }
        Some(duration)
    }
}

impl Value for Bytes {
    fn read(
        value: &Spanned<DeValue<'_>>,
        shape: &Shape,
        wrong: &mut Vec<Complaint>,
    ) -> Option<Self> {
        let text = text(value, "a size", r#""64MiB""#, wrong)?;
        let Some(size) = parse_size(text) else {
            wrong.push(Complaint::new(
                value.span(),
                format!("{text:?} is no size"),
                r#"write a number and B, KiB, MiB, GiB or TiB, such as "64MiB""#,
            ));
            return None;
        };
        if let Shape::Size(min, max) = shape
            && !(*min..=*max).contains(&size)
        {
            wrong.push(Complaint::new(
                value.span(),
                format!("{text:?} is out of range"),
                format!("write a {shape}"),
            ));
            return None;
        }
        Some(Self(size))
    }
}

impl Value for String {
    fn read(
        value: &Spanned<DeValue<'_>>,
        shape: &Shape,
        wrong: &mut Vec<Complaint>,
    ) -> Option<Self> {
        let text = text(value, "a text", r#""web""#, wrong)?;
        let complaint = match shape {
            Shape::Name if !is_name(text) => Some((
                format!("{text:?} is no name"),
                "write 1 to 253 letters, digits, '.', '-' or '_'".to_owned(),
            )),
            Shape::LabelPrefix if !is_label_prefix(text) => Some((
                format!("{text:?} is no prefix of labels"),
                "write a DNS name, such as \"mtls-daemon.io\"".to_owned(),
            )),
            Shape::Mount if !is_mount(text) => Some((
                format!("{text:?} is no path in Vault"),
                "write letters, digits, '.', '-', '_', and '/' between them only".to_owned(),
            )),
            Shape::Unit if !is_unit(text) => Some((
                format!("{text:?} is no systemd unit"),
                r#"write its whole name, such as "nginx.service""#.to_owned(),
            )),
            Shape::Filter => EnvFilter::builder().parse(text).err().map(|_error| {
                (
                    format!("{text:?} is no log filter"),
                    r#"write a level, such as "info", or levels by module, such as "info,mtls_daemon::pool=debug""#
                        .to_owned(),
                )
            }),
            _ => None,
        };
        if let Some((what, remedy)) = complaint {
            wrong.push(Complaint::new(value.span(), what, remedy));
            return None;
        }
        Some(text.to_owned())
    }
}

pub(super) fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    (1..=253).contains(&text.len()) && text.bytes().all(allowed)
}

/// As the API server takes it: a DNS name.
fn is_label_prefix(text: &str) -> bool {
    let label = |label: &str| {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !label.is_empty()
            && label.bytes().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// It becomes a part of a URL's path.
fn is_mount(text: &str) -> bool {
    text.split('/')
        .all(|segment| is_name(segment) && segment != "." && segment != "..")
}

/// The characters of systemd.unit(5), and a type.
fn is_unit(text: &str) -> bool {
    let allowed =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'-' | b'_' | b'.' | b'\\' | b'@');
    let typed = [".service", ".scope", ".slice"]
        .iter()
        .any(|kind| text.strip_suffix(kind).is_some_and(|name| !name.is_empty()));
    text.len() <= 255 && text.bytes().all(allowed) && typed
}

impl Value for PathBuf {
    fn read(value: &Spanned<DeValue<'_>>, _: &Shape, wrong: &mut Vec<Complaint>) -> Option<Self> {
        let text = text(
            value,
            "an absolute path",
            r#""/etc/mtls-daemon/ca.pem""#,
            wrong,
        )?;
        let path = Self::from(text);
        if !path.is_absolute() || text.contains('\0') {
            wrong.push(Complaint::new(
                value.span(),
                format!("{text:?} is no absolute path"),
                "write the whole path, from / on: a daemon has no current folder to speak of",
            ));
            return None;
        }
        Some(path)
    }
}

impl Value for SpiffeId {
    fn read(value: &Spanned<DeValue<'_>>, _: &Shape, wrong: &mut Vec<Complaint>) -> Option<Self> {
        let text = text(value, "a SPIFFE ID", r#""spiffe://example.org/web""#, wrong)?;
        text.parse::<Self>()
            .map_err(|error| {
                wrong.push(Complaint::new(
                    value.span(),
                    format!("{text:?} is no SPIFFE ID: {error}"),
                    r#"write one such as "spiffe://example.org/web""#,
                ));
            })
            .ok()
    }
}

impl Value for TrustDomain {
    fn read(value: &Spanned<DeValue<'_>>, _: &Shape, wrong: &mut Vec<Complaint>) -> Option<Self> {
        let text = text(value, "a trust domain", r#""example.org""#, wrong)?;
        text.parse::<Self>()
            .map_err(|error| {
                wrong.push(Complaint::new(
                    value.span(),
                    format!("{text:?} is no trust domain: {error}"),
                    r#"write it without spiffe:// and path, such as "example.org""#,
                ));
            })
            .ok()
    }
}

impl Value for ServerUrl {
    fn read(value: &Spanned<DeValue<'_>>, _: &Shape, wrong: &mut Vec<Complaint>) -> Option<Self> {
        let text = text(value, "a URL", r#""https://vault.example.org:8200""#, wrong)?;
        let url = Self::parse(text);
        if url.is_none() {
            wrong.push(Complaint::new(
                value.span(),
                format!("{text:?} is no URL of a server"),
                r#"write scheme, host and port alone, such as "https://vault.example.org:8200""#,
            ));
        }
        url
    }
}

impl Value for FileUrl {
    fn read(value: &Spanned<DeValue<'_>>, _: &Shape, wrong: &mut Vec<Complaint>) -> Option<Self> {
        let example = r#""https://vault.example.org:8200/v1/pki/crl""#;
        let text = text(value, "a URL", example, wrong)?;
        let url = Self::parse(text);
        if url.is_none() {
            wrong.push(Complaint::new(
                value.span(),
                format!("{text:?} is no URL of a file"),
                format!("write scheme, host and path, such as {example}"),
            ));
        }
        url
    }
}

impl Value for Selector {
    fn read(value: &Spanned<DeValue<'_>>, _: &Shape, wrong: &mut Vec<Complaint>) -> Option<Self> {
        let text = text(value, "a selector", r#""unix:uid:1000""#, wrong)?;
        let selector = Self::parse(text);
        if selector.is_none() {
            wrong.push(Complaint::new(
                value.span(),
                format!("{text:?} is no selector"),
                r#"write its type, a colon and its value, such as "unix:uid:1000""#,
            ));
        }
        selector
    }
}

impl Value for ServicePort {
    fn read(value: &Spanned<DeValue<'_>>, _: &Shape, wrong: &mut Vec<Complaint>) -> Option<Self> {
        let Some(table) = value.get_ref().as_table() else {
            let port = u16::read(value, &Shape::Port, wrong)?;
            return Some(Self { port, target: port });
        };
        let mut found: [Option<u16>; 2] = [None, None];
        let mut good = true;
        for (key, value) in table {
            let slot = match key.get_ref().as_ref() {
                "port" => 0,
                "target" => 1,
                unknown => {
                    wrong.push(Complaint::new(
                        key.span(),
                        format!("a service's port has no key {unknown:?}"),
                        "write { port = 80, target = 8080 }",
                    ));
                    good = false;
                    continue;
                }
            };
            found[slot] = u16::read(value, &Shape::Port, wrong);
            good &= found[slot].is_some();
        }
        match found {
            [Some(port), target] if good => Some(Self {
                port,
                target: target.unwrap_or(port),
            }),
            _ => {
                if good {
                    wrong.push(Complaint::new(
                        value.span(),
                        "the port that clients dial is missing",
                        "write { port = 80, target = 8080 }",
                    ));
                }
                None
            }
        }
    }
}

impl<T: Value> Value for Vec<T> {
    fn read(
        value: &Spanned<DeValue<'_>>,
        shape: &Shape,
        wrong: &mut Vec<Complaint>,
    ) -> Option<Self> {
        let inner = match shape {
            Shape::List(inner) => inner,
            other => other,
        };
        let Some(array) = value.get_ref().as_array() else {
            wrong.push(Complaint::new(
                value.span(),
                format!("expected a list, found {}", kind(value)),
                "put brackets around it: [...]",
            ));
            return None;
        };
        let items: Vec<Option<T>> = array
            .iter()
            .map(|item| T::read(item, inner, wrong))
            .collect();
        items.into_iter().collect()
    }
}

macro_rules! choices {
    ($($type:ident { $($word:literal => $variant:ident,)* })*) => {$(
        impl Value for $type {
            fn read(
                value: &Spanned<DeValue<'_>>,
                shape: &Shape,
                wrong: &mut Vec<Complaint>,
            ) -> Option<Self> {
                let example = [$($word),*][0];
                let example = format!("\"{example}\"");
                match text(value, &shape.to_string(), &example, wrong)? {
                    $($word => Some(Self::$variant),)*
                    other => {
                        wrong.push(no_choice(value, other, shape));
                        None
                    }
                }
            }
        }
    )*};
}
choices! {
    Mode {
        "off" => Off, "permissive" => Permissive, "strict" => Strict,
        "DISABLE" => Off, "PERMISSIVE" => Permissive, "STRICT" => Strict,
    }
    Connect { "truthful" => Truthful, "early" => Early, }
    Action { "ALLOW" => Allow, "DENY" => Deny, }
    Unknown { "refuse" => Refuse, "pass" => Pass, }
    Outside { "direct" => Direct, "refuse" => Refuse, }
    SelectedBy { "name" => Name, "pid" => Pid, }
    Udp { "pass" => Pass, "refuse" => Refuse, }
    VethGate { "on" => On, "off" => Off, }
    IstioPolicies { "read" => Read, "ignore" => Ignore, }
    ForeignPastExpiry { "cut" => Cut, "keep" => Keep, }
    CrlPolicy { "hard" => Hard, "soft" => Soft, }
    CrlDepth { "chain" => Chain, "leaf" => Leaf, }
    LogFormat { "human" => Human, "json" => Json, }
}

fn no_choice(value: &Spanned<DeValue<'_>>, found: &str, shape: &Shape) -> Complaint {
    let words: &[&str] = match shape {
        Shape::Choice(words) => words,
        _ => &[],
    };
    let remedy = match nearest(found, words.iter().copied()) {
        Some(meant) => format!("did you mean \"{meant}\"?"),
        None => format!("write \"{}\"", words.join("\" or \"")),
    };
    Complaint::new(
        value.span(),
        format!("{found:?} is none of the choices"),
        remedy,
    )
}
