//! `[[when]]`: what must be true of a request that is let in, so that anything runs.
//! A condition has exactly one of `pattern` and `one_of`.

use super::parameters::pattern;
use super::source::Sources;
use super::{Decoded, Table, Value};
use crate::policy::condition::Condition;
use crate::policy::diagnostic::Finding;
use crate::policy::parameter::Accepts;

pub(super) fn decode(value: Value<'_>, sources: &mut Sources) -> Decoded<Vec<Condition>> {
    if value.is_table() {
        return Err(
            value.refuse("there may be several conditions: write each with double brackets, `[[when]]`")
        );
    }
    value.list(|value| value.table("`[[when]]`", |table| condition(table, sources)))
}

fn condition(table: &mut Table<'_>, sources: &mut Sources) -> Decoded<Condition> {
    let from = table.required("from", |value| sources.read(value));
    let pattern = table.optional("pattern", |value| pattern(value).map(Accepts::Pattern));
    let one_of = table
        .optional("one_of", |value| value.set(|value| value.text().map(str::to_owned)).map(Accepts::OneOf));
    if table.has("pattern") == table.has("one_of") {
        let message = "a condition has exactly one of `pattern` and `one_of`";
        return Err(table.page().report(Finding::error(table.place(), message)));
    }
    let (from, pattern, one_of) = (from?, pattern?, one_of?);
    // One of the two was given, and an error in it has ended this already.
    let accepts = pattern.or(one_of).unwrap_or(Accepts::OneOf(Vec::new()));
    Ok(Condition::new(from, accepts))
}
