//! One TOML value: read as what a key takes, refused with what it takes instead.
//! Knows types, and none of the policy's keys.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

use toml::de::DeValue;

use super::{Decoded, Node, Page, Reported, Table};
use crate::policy::diagnostic::{Finding, Place};
use crate::policy::nearest::nearest;

/// A value, the key that it stands under, and its place.
#[derive(Clone, Copy)]
pub(in crate::policy) struct Value<'a> {
    page: &'a Page,
    key: &'a str,
    node: &'a Node<'a>,
}

impl<'a> Value<'a> {
    pub(super) fn new(page: &'a Page, key: &'a str, node: &'a Node<'a>) -> Self {
        Self { page, key, node }
    }

    pub(in crate::policy) fn page(self) -> &'a Page {
        self.page
    }

    pub(in crate::policy) fn place(self) -> Place {
        self.page.place(self.node.span())
    }

    /// The bytes `part` of a string value; the whole value where escapes make the two differ.
    pub(in crate::policy) fn part(self, part: Range<usize>) -> Place {
        let span = self.node.span();
        let inner = span.start + 1..span.end.saturating_sub(1);
        let written = self.page.source.text.get(inner.clone());
        if written.is_some() && written == self.node.get_ref().as_str() {
            self.page.place(inner.start + part.start..inner.start + part.end)
        } else {
            self.place()
        }
    }

    /// Writes down that this value will not do.
    pub(in crate::policy) fn refuse(self, message: impl Display) -> Reported {
        self.page.report(self.finding(message))
    }

    /// The same, to be completed.
    pub(in crate::policy) fn finding(self, message: impl Display) -> Finding {
        Finding::error(self.place(), format!("`{}`: {message}", self.key.escape_debug()))
    }

    pub(in crate::policy) fn text(self) -> Decoded<&'a str> {
        self.node.get_ref().as_str().ok_or_else(|| self.wrong_type("a string"))
    }

    /// A string that `parse` understands.
    pub(in crate::policy) fn parse<T, E: Display>(
        self,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Decoded<T> {
        parse(self.text()?).map_err(|error| self.refuse(error))
    }

    pub(in crate::policy) fn flag(self) -> Decoded<bool> {
        self.node.get_ref().as_bool().ok_or_else(|| self.wrong_type("`true` or `false`"))
    }

    /// A whole number within bounds.
    pub(in crate::policy) fn number<T>(self, allowed: RangeInclusive<T>) -> Decoded<T>
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        let DeValue::Integer(written) = self.node.get_ref() else {
            return Err(self.wrong_type("a whole number"));
        };
        let number = i64::from_str_radix(written.as_str(), written.radix()).ok();
        let number = number.and_then(|number| T::try_from(number).ok()).filter(|n| allowed.contains(n));
        number.ok_or_else(|| {
            self.refuse(format!("a whole number from {} to {}", allowed.start(), allowed.end()))
        })
    }

    /// One of a few words; `later` ones belong to the language, but are not built yet.
    pub(in crate::policy) fn word<T: Copy>(self, built: &[(&str, T)], later: &[&str]) -> Decoded<T> {
        let text = self.text()?;
        if let Some((_, meaning)) = built.iter().find(|(word, _)| *word == text) {
            return Ok(*meaning);
        }
        let quoted = |words: &[&str]| words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ");
        let words: Vec<&str> = built.iter().map(|(word, _)| *word).collect();
        let finding = if later.contains(&text) {
            self.finding(format!("`{text}` is not supported yet"))
        } else {
            let finding = self.finding(format!("`{}` is not one of its values", text.escape_debug()));
            match nearest(text, words.iter().copied()) {
                Some(meant) => finding.help(format!("did you mean `{meant}`?")),
                None => finding,
            }
        };
        let finding = finding.help(format!("allowed here: {}", quoted(&words)));
        let finding = match later {
            [] => finding,
            later => finding.help(format!("not supported yet: {}", quoted(later))),
        };
        Err(self.page.report(finding))
    }

    /// A list of at least one; errors of all its elements are reported.
    pub(in crate::policy) fn list<T>(self, mut decode: impl FnMut(Self) -> Decoded<T>) -> Decoded<Vec<T>> {
        let DeValue::Array(elements) = self.node.get_ref() else {
            return Err(self.wrong_type("a list"));
        };
        if elements.is_empty() {
            return Err(self.refuse("a list of at least one; leave the key out if it is not meant"));
        }
        let (key, page) = (self.key, self.page);
        let decoded: Vec<Decoded<T>> =
            elements.iter().map(|node| decode(Value { page, key, node })).collect();
        decoded.into_iter().collect()
    }

    /// A list without the same thing twice.
    pub(in crate::policy) fn set<T: PartialEq>(
        self,
        mut decode: impl FnMut(Self) -> Decoded<T>,
    ) -> Decoded<Vec<T>> {
        let elements = self.list(|element| Ok((element, decode(element)?)))?;
        let mut kept: Vec<T> = Vec::new();
        let mut reported = None;
        for (element, value) in elements {
            if kept.contains(&value) {
                reported = Some(element.refuse("it is listed twice"));
            } else {
                kept.push(value);
            }
        }
        reported.map_or(Ok(kept), Err)
    }

    pub(in crate::policy) fn is_list(self) -> bool {
        self.node.get_ref().is_array()
    }

    pub(in crate::policy) fn is_empty_list(self) -> bool {
        self.node.get_ref().as_array().is_some_and(|elements| elements.is_empty())
    }

    pub(in crate::policy) fn is_number(self) -> bool {
        self.node.get_ref().is_integer()
    }

    pub(in crate::policy) fn is_table(self) -> bool {
        self.node.get_ref().is_table()
    }

    /// A string, whole number or boolean as the text that it would be in JSON.
    pub(in crate::policy) fn scalar(self) -> Decoded<String> {
        let value = self.node.get_ref();
        let number = value.as_integer().filter(|number| number.radix() == 10).map(|n| n.as_str().to_owned());
        let text = value.as_str().map(str::to_owned).or(number);
        let text = text.or_else(|| value.as_bool().map(|flag| flag.to_string()));
        text.ok_or_else(|| self.wrong_type("a string, a decimal number or a boolean"))
    }

    /// A table, by the name that messages give it.
    pub(in crate::policy) fn table<T>(
        self,
        title: &str,
        read: impl FnOnce(&mut Table<'_>) -> Decoded<T>,
    ) -> Decoded<T> {
        match self.node.get_ref().as_table() {
            Some(entries) => Table::read_entries(self.page, title, entries, self.node.span(), read),
            None => Err(self.wrong_type("a table")),
        }
    }

    /// The path of a file; a relative one starts from the directory of the file that it stands in.
    pub(in crate::policy) fn path(self) -> Decoded<PathBuf> {
        let text = self.text()?;
        if text.is_empty() || text.contains('\0') {
            return Err(self.refuse("the path of a file"));
        }
        let directory = self.page.source.path.parent();
        Ok(directory.map_or_else(|| PathBuf::from(text), |directory| directory.join(text)))
    }

    /// An absolute path.
    pub(in crate::policy) fn absolute_path(self) -> Decoded<PathBuf> {
        let text = self.text()?;
        if !text.starts_with('/') || text.contains('\0') {
            return Err(self.refuse("an absolute path"));
        }
        Ok(PathBuf::from(text))
    }

    fn wrong_type(self, expected: &str) -> Reported {
        let article = match self.node.get_ref() {
            DeValue::Integer(_) | DeValue::Array(_) => "an",
            DeValue::String(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Table(_) => "a",
        };
        self.refuse(format!("takes {expected}, not {article} {}", self.node.get_ref().type_str()))
    }
}
