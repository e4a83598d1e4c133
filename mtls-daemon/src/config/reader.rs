//! Reads tables by the table of keys: nothing is accepted that is not in it,
//! and every mistake is collected instead of ending the reading.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::authorization::{Written, beyond_l4};
use super::keys::{Fallback, Key, SECTIONS, Section};
use super::mistakes::{Complaint, nearest, place_of};
use super::value::Value;

/// Collects what is wrong with one file.
pub(super) struct Reader<'t> {
    /// What messages call the file.
    name: Arc<str>,
    pub(super) text: &'t str,
    /// It is one of `policy.directory`.
    in_directory: bool,
    /// Of single values; these hold even where the rest of the file is garbled.
    values: RefCell<Vec<Complaint>>,
    /// Of the structure: missing and unknown keys, and what parts say of each other.
    structure: RefCell<Vec<Complaint>>,
}

/// One table of the file, or a section that the file does not have.
pub(super) struct Part<'r> {
    reader: &'r Reader<'r>,
    section: &'static Section,
    table: Option<&'r DeTable<'r>>,
    span: Range<usize>,
}

impl<'t> Reader<'t> {
    /// Of the configuration itself.
    pub(super) fn new(name: &str, text: &'t str) -> Self {
        Self {
            name: Arc::from(name),
            text,
            in_directory: false,
            values: RefCell::default(),
            structure: RefCell::default(),
        }
    }

    /// Of a file of `policy.directory`.
    pub(super) fn of_directory(name: &str, text: &'t str) -> Self {
        Self {
            in_directory: true,
            ..Self::new(name, text)
        }
    }

    /// What is wrong with single values, and with the structure.
    pub(super) fn into_complaints(self) -> (Vec<Complaint>, Vec<Complaint>) {
        (self.values.into_inner(), self.structure.into_inner())
    }
}

impl<'r> Part<'r> {
    /// The top of the file.
    pub(super) fn root(reader: &'r Reader<'r>, table: &'r DeTable<'r>) -> Self {
        Self::new(reader, &SECTIONS[0], Some(table), 0..0)
    }

    fn new(
        reader: &'r Reader<'r>,
        section: &'static Section,
        table: Option<&'r DeTable<'r>>,
        span: Range<usize>,
    ) -> Self {
        let part = Self {
            reader,
            section,
            table,
            span,
        };
        for key in table.into_iter().flat_map(DeTable::keys) {
            let name = key.get_ref().as_ref();
            if section.key(name).is_none() && part.child_section(name).is_none() {
                part.unknown(name, key.span());
            }
        }
        part
    }

    /// The value of a key, or its default; `None` if it has neither, or is wrong.
    pub(super) fn get<T: Value>(&self, name: &str) -> Option<T> {
        let key = self.key(name);
        let mut wrong = Vec::new();
        let value = match (self.value(name), key.default) {
            (Some(value), _) => T::read(value, &key.shape, &mut wrong),
            (None, Fallback::Is(default)) => Some(default_value(key, default)),
            (None, Fallback::Unset(_)) => None,
            (None, Fallback::Required) => {
                self.missing(key);
                None
            }
        };
        for complaint in wrong {
            let what = format!("{}: {}", self.section.path_of(name), complaint.what);
            let mut values = self.reader.values.borrow_mut();
            values.push(Complaint { what, ..complaint });
        }
        value
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// Whether the table of keys has this one here.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.section.key(name).is_some()
    }

    /// Whether there can be a table of that name below this one.
    pub(super) fn knows_table(&self, name: &str) -> bool {
        self.child_section(name).is_some()
    }

    /// The table below this one; empty if the file has none.
    pub(super) fn table(&self, name: &str) -> Self {
        self.maybe(name).unwrap_or_else(|| {
            let end = self.reader.text.len();
            Self::new(self.reader, self.known_child(name), None, end..end)
        })
    }

    /// The table below this one, if the file has it.
    pub(super) fn maybe(&self, name: &str) -> Option<Self> {
        let section = self.known_child(name);
        let value = self.value(name)?;
        match value.get_ref() {
            DeValue::Table(table) => {
                Some(Self::new(self.reader, section, Some(table), value.span()))
            }
            _ => {
                self.complain(
                    value.span(),
                    format!("{} is a table", section.path),
                    format!("write {} once, and its keys below", section.header()),
                );
                None
            }
        }
    }

    /// Every table of an array of tables below this one.
    pub(super) fn each(&self, name: &str) -> Vec<Self> {
        let section = self.known_child(name);
        let wrong = |span: Range<usize>| {
            self.complain(
                span,
                format!("{} can stand several times", section.path),
                format!("write {}, with two brackets", section.header()),
            );
        };
        let Some(value) = self.value(name) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            wrong(value.span());
            return Vec::new();
        };
        array
            .iter()
            .filter_map(|item| match item.get_ref() {
                DeValue::Table(table) => {
                    Some(Self::new(self.reader, section, Some(table), item.span()))
                }
                _ => {
                    wrong(item.span());
                    None
                }
            })
            .collect()
    }

    /// Where a key's value stands, or else the part itself.
    pub(super) fn at(&self, name: &str) -> Range<usize> {
        self.value(name)
            .map_or_else(|| self.span.clone(), Spanned::span)
    }

    /// Where the part itself stands.
    pub(super) fn whole(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Whether nothing is said in it.
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_none_or(DeTable::is_empty)
    }

    /// Names of what is said in it.
    pub(super) fn names(&self) -> impl Iterator<Item = (&'r str, Range<usize>)> {
        let keys = self.table.into_iter().flat_map(DeTable::keys);
        keys.map(|key| (key.get_ref().as_ref(), key.span()))
    }

    pub(super) fn written(&self, at: Range<usize>) -> Written {
        Written::File {
            file: Arc::clone(&self.reader.name),
            line: place_of(self.reader.text, at.start).line,
            in_directory: self.reader.in_directory,
        }
    }

    /// Where an item of a list stands.
    pub(super) fn at_item(&self, name: &str, index: usize) -> Range<usize> {
        self.value(name)
            .and_then(|value| value.get_ref().as_array()?.get(index))
            .map_or_else(|| self.at(name), Spanned::span)
    }

    pub(super) fn complain(&self, at: Range<usize>, what: String, remedy: impl Into<String>) {
        let complaint = Complaint::new(at, what, remedy);
        self.reader.structure.borrow_mut().push(complaint);
    }

    fn value(&self, name: &str) -> Option<&'r Spanned<DeValue<'r>>> {
        self.table?.get(name)
    }

    fn key(&self, name: &str) -> &'static Key {
        self.section
            .key(name)
            .expect("the table of keys has every key that is read")
    }

    fn known_child(&self, name: &str) -> &'static Section {
        self.child_section(name)
            .expect("the table of keys has every section that is read")
    }

    fn child_section(&self, name: &str) -> Option<&'static Section> {
        Section::find(&self.section.path_of(name))
    }

    fn missing(&self, key: &Key) {
        let path = self.section.path_of(key.name);
        let line = format!("{} = {}", key.name, key.example);
        let remedy = match (self.section.path, self.table) {
            ("", _) => format!("write `{line}` at the top of the file"),
            (_, Some(_)) => format!("add a line such as `{line}`"),
            (_, None) => format!("add {} with `{line}`", self.section.header()),
        };
        self.complain(self.span.clone(), format!("{path} is missing"), remedy);
    }

    fn unknown(&self, name: &str, at: Range<usize>) {
        if let Some((what, remedy)) = beyond_l4(self.section.path, name) {
            return self.complain(at, what, remedy);
        }
        let children = SECTIONS
            .iter()
            .filter_map(|section| self.child_name(section));
        let own = self.section.keys.iter().map(|key| key.name);
        let elsewhere = SECTIONS
            .iter()
            .find(|section| section.path != self.section.path && section.key(name).is_some());
        let remedy = if let Some(meant) = nearest(name, own.chain(children)) {
            format!("did you mean `{meant}`?")
        } else if let Some(section) = elsewhere {
            format!("it belongs to {}", section.header())
        } else {
            "take it out; docs/configuration.md has every key".to_owned()
        };
        let place = match self.section.path {
            "" => "the file".to_owned(),
            _ => self.section.header(),
        };
        self.complain(at, format!("{place} has no key {name:?}"), remedy);
    }

    /// The last part of the path of a section right below this one.
    fn child_name(&self, section: &Section) -> Option<&'static str> {
        let below = match self.section.path {
            "" => section.path,
            path => section.path.strip_prefix(path)?.strip_prefix('.')?,
        };
        (!below.is_empty() && !below.contains('.')).then_some(below)
    }
}

/// The table of keys writes defaults as the file would; a test reads them all.
fn default_value<T: Value>(key: &Key, default: &str) -> T {
    let value = DeValue::parse(default).expect("defaults are written in TOML");
    let mut wrong = Vec::new();
    T::read(&value, &key.shape, &mut wrong).expect("defaults are good values")
}
