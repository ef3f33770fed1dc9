//! Reads the tables of the file key by key and keeps account: of every value its origin, of every
//! mistake its place. A key that nobody asked for is a mistake, too.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

use serde::Serialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::key::{Key, Refusal};
use super::problem::{Lines, Place, Problem};

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum Origin {
    /// The configuration file.
    File(Place),
    /// An environment variable.
    Environment {
        /// Its name.
        name: String,
    },
    /// Another key of the same file, or a value made from it.
    Key {
        /// That key, in full.
        key: String,
    },
    /// Nobody has set it.
    Default,
}

/// One key with the value it has, for `config show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The key, in full.
    pub key: String,
    /// The value as it would stand in the file; `None` if it is not set and has no default.
    pub value: Option<String>,
    /// Where it comes from.
    pub origin: Origin,
}

/// What was found while reading one text.
#[derive(Debug)]
pub(super) struct Account<'t> {
    lines: Lines<'t>,
    keep: Keep,
    found: RefCell<Found>,
}

/// What an account keeps beside the problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Every key with its value and origin.
    Settings,
    /// Nothing: with thousands of jobs the keys take more room than their values.
    Nothing,
}

#[derive(Debug, Default)]
struct Found {
    problems: Vec<(usize, Problem)>,
    settings: Vec<Setting>,
    /// Every key that was asked for, with the first section in which it was.
    asked: BTreeMap<&'static str, String>,
    unknown: Vec<Unknown>,
}

#[derive(Debug)]
struct Unknown {
    section: String,
    name: String,
    at: Range<usize>,
    known: Vec<&'static str>,
}

impl<'t> Account<'t> {
    pub(super) fn new(text: &'t str, keep: Keep) -> Self {
        Self {
            lines: Lines::of(text),
            keep,
            found: RefCell::default(),
        }
    }

    /// Notes a problem at the byte range `at`, or of the file as a whole.
    pub(super) fn problem(&self, at: Option<&Range<usize>>, key: &str, refusal: Refusal) {
        let problem = Problem {
            place: at.map(|span| self.lines.place(span)),
            key: key.to_owned(),
            message: refusal.message,
            help: refusal.help,
        };
        let order = at.map_or(0, |span| span.start);
        self.found.borrow_mut().problems.push((order, problem));
    }

    /// Notes the value of a key, if such notes are kept.
    pub(super) fn setting(&self, setting: impl FnOnce() -> Setting) {
        if self.keep == Keep::Settings {
            let setting = setting();
            self.found.borrow_mut().settings.push(setting);
        }
    }

    /// Gives a key that was noted another value and origin.
    pub(super) fn replace(&self, key: &str, value: Option<String>, origin: Origin) {
        let mut found = self.found.borrow_mut();
        if let Some(setting) = found.settings.iter_mut().find(|s| s.key == key) {
            setting.value = value;
            setting.origin = origin;
        }
    }

    /// Everything noted: problems in the order of the file, settings in the order of asking.
    pub(super) fn close(self) -> (Vec<Problem>, Vec<Setting>) {
        let Found {
            mut problems,
            settings,
            asked,
            unknown,
        } = self.found.into_inner();
        for stray in unknown {
            let at = stray.at.clone();
            let key = join(&stray.section, &stray.name);
            let problem = Problem {
                place: Some(self.lines.place(&at)),
                key,
                message: "unknown key".to_owned(),
                help: advice(&stray, &asked),
            };
            problems.push((at.start, problem));
        }
        problems.sort_by_key(|(at, _)| *at);
        let mut problems: Vec<_> = problems.into_iter().map(|(_, problem)| problem).collect();
        problems.dedup();
        (problems, settings)
    }
}

/// What an unknown key was meant to be: a near name in its section, or a section that has it.
fn advice(stray: &Unknown, asked: &BTreeMap<&'static str, String>) -> Option<String> {
    if let Some(near) = nearest(&stray.name, stray.known.iter().copied()) {
        return Some(format!("did you mean {near:?}?"));
    }
    let home = asked.get_key_value(stray.name.as_str());
    match home {
        Some((name, section)) if section.is_empty() => Some(format!(
            "{name:?} belongs above the first [section] of the file"
        )),
        Some((name, section)) => Some(format!("{name:?} belongs under [{section}]")),
        None if stray.known.is_empty() => None,
        None => Some(format!("known here: {}", stray.known.join(", "))),
    }
}

/// The one of `known` that `given` is most likely a slip for.
pub(super) fn nearest<'k>(given: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let kebab = given.replace('_', "-");
    let distance = |word: &str| {
        // "warning" for "warn" is no slip of the fingers.
        let longer = kebab.len() >= 4 && (kebab.starts_with(word) || word.starts_with(&kebab));
        if longer {
            1
        } else {
            strsim::osa_distance(&kebab, word)
        }
    };
    known
        .map(|word| (distance(word), word))
        .filter(|(distance, word)| *distance <= (word.len() / 3).clamp(1, 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

fn join(section: &str, name: &str) -> String {
    if section.is_empty() {
        name.to_owned()
    } else {
        format!("{section}.{name}")
    }
}

/// One table of the file; reads as empty where the file does not have it.
#[derive(Debug)]
pub(super) struct Section<'a, 't> {
    account: &'a Account<'t>,
    table: Option<&'a DeTable<'t>>,
    /// Its name, in full; empty for the top.
    name: String,
    /// Where its head stands; that of the table around it where the file does not have it.
    at: Option<Range<usize>>,
    known: Vec<&'static str>,
}

impl<'a, 't> Section<'a, 't> {
    pub(super) fn top(account: &'a Account<'t>, table: &'a Spanned<DeTable<'t>>) -> Self {
        Self {
            account,
            table: Some(table.get_ref()),
            name: String::new(),
            at: None,
            known: Vec::new(),
        }
    }

    /// Whether the file has this table.
    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// Whether the file has the key in this table.
    pub(super) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Whether the file has any key in this table.
    pub(super) fn has_any(&self) -> bool {
        self.table.is_some_and(|table| !table.is_empty())
    }

    /// The table under the key `name`, as if the file did not have it.
    pub(super) fn absent(&self, name: &str) -> Section<'a, 't> {
        self.open(name, None)
    }

    /// Notes that neither this table nor the one named `instead` is there, at the job's head.
    pub(super) fn missing(&self, instead: &str) {
        let refusal = Refusal {
            message: "is missing: stepdown must know how to stop the job".to_owned(),
            help: Some(format!(
                "write [{instead}] with backend = \"signal\", \"command\" or \"driver\""
            )),
        };
        self.account.problem(self.at.as_ref(), instead, refusal);
    }

    /// The name in full of a key of this section.
    pub(super) fn key(&self, name: &str) -> String {
        join(&self.name, name)
    }

    pub(super) fn account(&self) -> &'a Account<'t> {
        self.account
    }

    /// Notes a problem with the key `name`, at its value, or at the section's head if it has none.
    pub(super) fn problem(&self, name: &str, refusal: Refusal) {
        let at = self.find(name).map(|(_, value)| value.span());
        let at = at.as_ref().or(self.at.as_ref());
        self.account.problem(at, &self.key(name), refusal);
    }

    /// Notes a problem with the section as a whole.
    pub(super) fn problem_here(&self, refusal: Refusal) {
        self.account.problem(self.at.as_ref(), &self.name, refusal);
    }

    fn find(
        &self,
        name: &str,
    ) -> Option<(
        &'a Spanned<toml::de::DeString<'t>>,
        &'a Spanned<DeValue<'t>>,
    )> {
        self.table?
            .iter()
            .find(|(key, _)| key.get_ref().as_ref() == name)
    }

    fn ask(&mut self, name: &'static str) {
        self.known.push(name);
        let mut found = self.account.found.borrow_mut();
        if !found.asked.contains_key(name) {
            found.asked.insert(name, self.name.clone());
        }
    }

    /// The value of the key with its place; `None` if it is missing or was refused (and noted).
    fn read<T: Key>(&mut self, name: &'static str) -> Option<(T, Place)> {
        self.ask(name);
        let (_, value) = self.find(name)?;
        match T::read(value.get_ref()) {
            Ok(read) => Some((read, self.account.lines.place(&value.span()))),
            Err(refusal) => {
                self.problem(name, refusal);
                None
            }
        }
    }

    /// The value of the key, or `fallback` with the origin `origin`.
    pub(super) fn value_or<T: Key>(
        &mut self,
        name: &'static str,
        fallback: Option<T>,
        origin: Origin,
    ) -> Option<T> {
        let (value, origin) = match self.read(name) {
            Some((value, place)) => (Some(value), Origin::File(place)),
            None => (fallback, origin),
        };
        self.account.setting(|| Setting {
            key: self.key(name),
            value: value.as_ref().map(Key::show),
            origin,
        });
        value
    }

    /// The value of the key, or its default.
    pub(super) fn value<T: Key + Clone>(&mut self, name: &'static str, default: T) -> T {
        self.value_or(name, Some(default.clone()), Origin::Default)
            .unwrap_or(default)
    }

    /// The value of the key, or its default where it is missing or `allowed` refuses it.
    pub(super) fn checked<T: Key + Clone>(
        &mut self,
        name: &'static str,
        default: T,
        allowed: impl Fn(&T) -> Result<(), &'static str>,
    ) -> T {
        let value = self.value(name, default.clone());
        match allowed(&value) {
            Ok(()) => value,
            Err(rule) => {
                let message = format!("{} is out of range: {rule}", value.show());
                self.problem(name, Refusal::new(message));
                default
            }
        }
    }

    /// The value of a key that may be left out.
    pub(super) fn optional<T: Key>(&mut self, name: &'static str) -> Option<T> {
        self.value_or(name, None, Origin::Default)
    }

    /// The value of a key that must be there; its absence is noted.
    pub(super) fn required<T: Key>(&mut self, name: &'static str, help: &str) -> Option<T> {
        let value = self.optional(name);
        if value.is_none() && self.find(name).is_none() {
            let refusal = Refusal {
                message: "is missing".to_owned(),
                help: Some(help.to_owned()),
            };
            self.problem(name, refusal);
        }
        value
    }

    /// The table under the key `name`.
    pub(super) fn section(&mut self, name: &'static str) -> Section<'a, 't> {
        self.ask(name);
        let found = self.find(name);
        self.open(name, found)
    }

    fn open(
        &self,
        name: &str,
        found: Option<(
            &'a Spanned<toml::de::DeString<'t>>,
            &'a Spanned<DeValue<'t>>,
        )>,
    ) -> Section<'a, 't> {
        let table = found.and_then(|(_, value)| value.get_ref().as_table());
        if found.is_some() && table.is_none() {
            let message = format!("needs a table: [{}]", self.key(name));
            self.problem(name, Refusal::new(message));
        }
        Section {
            account: self.account,
            table,
            name: self.key(name),
            at: found.map(|(key, _)| key.span()).or_else(|| self.at.clone()),
            known: Vec::new(),
        }
    }

    /// The tables of this section whose names are the user's own, in the order of the file.
    pub(super) fn named_sections(&mut self) -> Vec<(String, Section<'a, 't>)> {
        let mut keys: Vec<_> = self
            .table
            .into_iter()
            .flat_map(|table| table.iter())
            .collect();
        keys.sort_by_key(|(key, _)| key.span().start);
        keys.into_iter()
            .map(|(key, value)| {
                let name = key.get_ref().as_ref();
                (name.to_owned(), self.open(name, Some((key, value))))
            })
            .collect()
    }

    /// The strings of this section whose names are the user's own (`overrides`).
    pub(super) fn named_strings(&mut self) -> Vec<(String, String)> {
        let mut strings = Vec::new();
        for (key, value) in self.table.into_iter().flat_map(|table| table.iter()) {
            let name = key.get_ref().as_ref();
            match String::read(value.get_ref()) {
                Ok(text) => {
                    let place = self.account.lines.place(&value.span());
                    self.account.setting(|| Setting {
                        key: format!("{}.{}", self.name, super::key::quote(name)),
                        value: Some(text.show()),
                        origin: Origin::File(place),
                    });
                    strings.push((name.to_owned(), text));
                }
                Err(refusal) => self.problem(name, refusal),
            }
        }
        strings
    }

    /// Notes every key that was not asked for.
    pub(super) fn finish(self) {
        for (key, _) in self.table.into_iter().flat_map(|table| table.iter()) {
            let name = key.get_ref().as_ref();
            if !self.known.contains(&name) {
                self.account.found.borrow_mut().unknown.push(Unknown {
                    section: self.name.clone(),
                    name: name.to_owned(),
                    at: key.span(),
                    known: self.known.clone(),
                });
            }
        }
    }
}
