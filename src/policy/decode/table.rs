//! One TOML table: what must, may and may not be in it.
//! Every key is read or refused; none is ignored.

use std::ops::Range;

use toml::de::DeTable;

use super::{Decoded, Page, Reported, Value};
use crate::policy::diagnostic::{Finding, Place};
use crate::policy::nearest::nearest;

/// A table whose keys are asked for one by one.
pub(in crate::policy) struct Table<'a> {
    page: &'a Page,
    title: &'a str,
    entries: &'a DeTable<'a>,
    span: Range<usize>,
    built: Vec<&'static str>,
    later: Vec<&'static str>,
    /// Whether the operator chooses the keys.
    free: bool,
    reported: Option<Reported>,
}

impl<'a> Table<'a> {
    /// Lets `read` take what it knows; what it did not ask for is an error.
    pub(super) fn read_entries<T>(
        page: &'a Page,
        title: &'a str,
        entries: &'a DeTable<'a>,
        span: Range<usize>,
        read: impl FnOnce(&mut Self) -> Decoded<T>,
    ) -> Decoded<T> {
        let (built, later) = (Vec::new(), Vec::new());
        let mut table = Self { page, title, entries, span, built, later, free: false, reported: None };
        let value = read(&mut table);
        table.refuse_unknown();
        match table.reported {
            Some(reported) => Err(reported),
            None => value,
        }
    }

    /// A key that must be there.
    pub(in crate::policy) fn required<T>(
        &mut self,
        key: &'static str,
        decode: impl FnOnce(Value<'a>) -> Decoded<T>,
    ) -> Decoded<T> {
        match self.find(key) {
            Some(value) => decode(value),
            None => {
                let missing = Finding::error(self.place(), format!("`{key}` is missing in {}", self.title));
                Err(self.page.report(missing))
            }
        }
    }

    /// A key that need not be there.
    pub(in crate::policy) fn optional<T>(
        &mut self,
        key: &'static str,
        decode: impl FnOnce(Value<'a>) -> Decoded<T>,
    ) -> Decoded<Option<T>> {
        self.find(key).map(decode).transpose()
    }

    /// A key with a default.
    pub(in crate::policy) fn or<T>(
        &mut self,
        key: &'static str,
        default: T,
        decode: impl FnOnce(Value<'a>) -> Decoded<T>,
    ) -> Decoded<T> {
        self.find(key).map_or(Ok(default), decode)
    }

    /// A table all of whose keys have defaults, read as an empty one when it is not there.
    pub(in crate::policy) fn table_or_defaults<T>(
        &mut self,
        key: &'static str,
        title: &str,
        read: impl FnOnce(&mut Table<'_>) -> Decoded<T>,
    ) -> Decoded<T> {
        match self.find(key) {
            Some(value) => value.table(title, read),
            None => Table::read_entries(self.page, title, &DeTable::new(), self.span.clone(), read),
        }
    }

    /// A key that is not looked at here, whatever it says.
    pub(in crate::policy) fn leave(&mut self, key: &'static str) {
        self.built.push(key);
    }

    /// A key of the language that is not built yet: present, it is refused, whatever it says.
    pub(in crate::policy) fn unsupported(&mut self, key: &'static str) {
        self.later.push(key);
        if let Some((name, _)) = self.entries.get_key_value(key) {
            let message = format!("`{key}` is not supported yet in {}", self.title);
            let help = "remove it: a key without effect would promise what is not kept";
            let refusal = Finding::error(self.page.place(name.span()), message).help(help);
            self.reported = Some(self.page.report(refusal));
        }
    }

    fn entries(&self) -> impl Iterator<Item = (&'a str, Place, Value<'a>)> {
        let page = self.page;
        self.entries.iter().map(move |(key, node)| {
            let name: &'a str = key.get_ref();
            (name, page.place(key.span()), Value::new(page, name, node))
        })
    }

    /// Every entry, for tables whose keys the operator chooses.
    pub(in crate::policy) fn take_all(&mut self) -> Vec<(&'a str, Place, Value<'a>)> {
        self.free = true;
        self.entries().collect()
    }

    pub(in crate::policy) fn has(&self, key: &str) -> bool {
        self.entries.get(key).is_some()
    }

    /// The value of `key` where it is written, the table's head where it is not.
    pub(in crate::policy) fn place_of(&self, key: &str) -> Place {
        self.entries.get(key).map_or_else(|| self.place(), |node| self.page.place(node.span()))
    }

    /// Where the table starts.
    pub(in crate::policy) fn place(&self) -> Place {
        self.page.place(self.span.clone())
    }

    /// How messages call it.
    pub(in crate::policy) fn title(&self) -> &'a str {
        self.title
    }

    pub(in crate::policy) fn page(&self) -> &'a Page {
        self.page
    }

    fn find(&mut self, key: &'static str) -> Option<Value<'a>> {
        if !self.built.contains(&key) {
            self.built.push(key);
        }
        self.entries.get(key).map(|node| Value::new(self.page, key, node))
    }

    fn refuse_unknown(&mut self) {
        if self.free {
            return;
        }
        let known = |key: &str| self.built.iter().chain(&self.later).any(|known| *known == key);
        for (key, place, _) in self.entries().filter(|(key, _, _)| !known(key)).collect::<Vec<_>>() {
            let message = format!("unknown key `{}` in {}", key.escape_debug(), self.title);
            let mut finding = Finding::error(place, message);
            if let Some(meant) = nearest(key, self.built.iter().chain(&self.later).copied()) {
                finding = finding.help(format!("did you mean `{meant}`?"));
            }
            finding = finding.help(format!("allowed here: {}", self.built.join(", ")));
            if !self.later.is_empty() {
                finding = finding.help(format!("not supported yet: {}", self.later.join(", ")));
            }
            self.reported = Some(self.page.report(finding));
        }
    }
}
