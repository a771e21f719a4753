//! From text to values: a small reader of TOML tables that goes on after an error.
//!
//! [`Reported`] is what a decoder gives in place of a value once the error is written down, so that nothing can be left
//! out silently and one bad key hides no other. A key that nobody asked for is an error when its table ends.

use std::cell::RefCell;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostics, Finding, Place, SourceText};

mod admin;
pub(super) mod gateway;
mod keys;
mod limits;
mod parameters;
mod restrictions;
pub(super) mod route;
mod rule;
mod run;
mod source;
mod table;
mod value;
mod when;

pub(super) use table::Table;
pub(super) use value::Value;

/// An error was written down; only [`Page::report`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reported(());

/// The outcome of decoding: a value, or the promise that an error was written down.
pub(super) type Decoded<T> = Result<T, Reported>;

/// One file while it is read, and what was found in it.
#[derive(Debug)]
pub(super) struct Page {
    source: Arc<SourceText>,
    findings: RefCell<Vec<Finding>>,
}

impl Page {
    pub(super) fn new(path: PathBuf, text: String) -> Self {
        Self { source: Arc::new(SourceText { path, text }), findings: RefCell::default() }
    }

    /// Reads the whole file as one table. `title` names it in messages.
    ///
    /// Syntax errors are reported alone: what is left of a broken text says little about what was meant.
    pub(super) fn read<T>(&self, title: &str, read: impl FnOnce(&mut Table<'_>) -> Decoded<T>) -> Decoded<T> {
        let source = Arc::clone(&self.source);
        let (tree, mut errors) = DeTable::parse_recoverable(&source.text);
        errors.sort_by_key(|error| error.span().map(|span| span.start));
        let mut syntax = None;
        let mut reported_until = 0;
        for error in &errors {
            // One mistake often makes several errors in its line; the first of them says it best.
            let span = error.span().unwrap_or(0..0);
            if syntax.is_some() && span.start < reported_until {
                continue;
            }
            let rest = source.text.get(span.start..).unwrap_or_default();
            reported_until =
                rest.find('\n').map_or(source.text.len() + 1, |newline| span.start + newline + 1);
            let message = format!("not TOML: {}", error.message());
            syntax = Some(self.report(Finding::error(self.place(span), message)));
        }
        match syntax {
            Some(reported) => Err(reported),
            None => Table::read_entries(self, title, tree.get_ref(), 0..0, read),
        }
    }

    /// Writes an error down.
    pub(super) fn report(&self, error: Finding) -> Reported {
        self.findings.borrow_mut().push(error);
        Reported(())
    }

    /// Writes a warning down.
    pub(super) fn warn(&self, place: Place, message: impl Into<String>, help: &str) {
        self.findings.borrow_mut().push(Finding::warning(place, message).help(help));
    }

    pub(super) fn into_diagnostics(self) -> Diagnostics {
        Diagnostics::of_file(self.findings.into_inner())
    }

    /// The place of what concerns the whole file.
    pub(super) fn start(&self) -> Place {
        self.place(0..0)
    }

    fn place(&self, span: Range<usize>) -> Place {
        Place { source: Arc::clone(&self.source), span }
    }
}

/// A node of the tree, with its bytes in the text.
type Node<'a> = Spanned<DeValue<'a>>;
