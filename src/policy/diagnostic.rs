//! Errors and warnings that cite the line, all of them at once.
//!
//! Shows the lines of policy files only; the contents of secrets, keys and certificates never come here.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// Most findings that are written out; the rest are counted.
pub const MOST_SHOWN: usize = 200;

/// The text of one policy file and where it stood.
#[derive(Debug)]
pub(super) struct SourceText {
    /// Absolute, as it was asked for.
    pub(super) path: PathBuf,
    /// The whole file.
    pub(super) text: String,
}

/// A range of bytes in a policy file. Other rooms can only have it shown.
#[derive(Clone, Debug)]
pub struct Place {
    pub(super) source: Arc<SourceText>,
    pub(super) span: Range<usize>,
}

/// File and line, as `check` shows them.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = self.source.text.get(..self.span.start).unwrap_or_default();
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        write!(f, "{}:{line}", self.source.path.display())
    }
}

/// One error or warning.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    severity: Severity,
    message: String,
    at: At,
    also: Vec<(Place, String)>,
    help: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Error,
    Warning,
}

#[derive(Clone, Debug)]
enum At {
    Place(Place),
    File(PathBuf),
    Directory(PathBuf),
}

/// Everything that was found in a policy.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    findings: Vec<Finding>,
}

impl Finding {
    pub(super) fn error(place: Place, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, At::Place(place), message)
    }

    pub(super) fn warning(place: Place, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, At::Place(place), message)
    }

    /// Of a whole file.
    pub(super) fn warning_of_file(path: &Path, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, At::File(path.to_owned()), message)
    }

    fn new(severity: Severity, at: At, message: impl Into<String>) -> Self {
        Self { severity, message: message.into(), at, also: Vec::new(), help: Vec::new() }
    }

    /// Says what to do next, or what is allowed.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// Shows a second place that has to do with it.
    pub(super) fn also(mut self, place: Place, label: impl Into<String>) -> Self {
        self.also.push((place, label.into()));
        self
    }

    fn offset(&self) -> usize {
        match &self.at {
            At::Place(place) => place.span.start,
            At::File(_) | At::Directory(_) => 0,
        }
    }

    fn brief(&self) -> String {
        let place = match &self.at {
            At::Place(place) => format!("{}:{}", place.source.path.display(), place.line()),
            At::File(path) | At::Directory(path) => path.display().to_string(),
        };
        format!("{place}: {}", self.message)
    }

    fn render(&self, renderer: &Renderer) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(self.message.as_str()));
        group = match &self.at {
            At::Place(place) => group.element(place.snippet(AnnotationKind::Primary, None)),
            At::File(path) => group.element(Origin::path(path.to_string_lossy()).line(1).char_column(1)),
            At::Directory(path) => group.element(Origin::path(path.to_string_lossy())),
        };
        for (place, label) in &self.also {
            group = group.element(place.snippet(AnnotationKind::Context, Some(label)));
        }
        for help in &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }
}

impl Place {
    /// Counted from one.
    fn line(&self) -> usize {
        let before = self.source.text.as_bytes().iter().take(self.span.start);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    /// The first line of the place, with a mark under it: a whole file may be as long as it likes.
    fn snippet<'a>(&'a self, kind: AnnotationKind, label: Option<&'a String>) -> Snippet<'a, Annotation<'a>> {
        let text = self.source.text.as_str();
        let start = text.floor_char_boundary(self.span.start);
        let (before, after) = text.split_at(start);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = after.find('\n').map_or(text.len(), |newline| start + newline);
        let end = text.floor_char_boundary(self.span.end.clamp(start, line_end));
        let number = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
        let span = start - line_start..end.max(start) - line_start;
        Snippet::source(text.get(line_start..line_end).unwrap_or_default())
            .line_start(number)
            .path(self.source.path.to_string_lossy())
            .annotation(kind.span(span).label(label))
    }
}

impl Diagnostics {
    /// How many errors.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// How many warnings.
    #[must_use]
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    /// The one-line message of each finding, in order, without its place.
    pub fn messages(&self) -> impl Iterator<Item = &str> {
        self.findings.iter().map(|finding| finding.message.as_str())
    }

    /// One line for each error, with its place, as a log wants them; at most `most`, the rest counted.
    #[must_use]
    pub fn brief(&self, most: usize) -> String {
        let errors = self.findings.iter().filter(|finding| finding.severity == Severity::Error);
        let mut lines: Vec<String> = errors.take(most).map(Finding::brief).collect();
        if self.errors() > lines.len() {
            lines.push(format!("and {} more", self.errors() - lines.len()));
        }
        lines.join("; ")
    }

    /// Adds an error in what a policy says, or in what it names there, such as a certificate that does not parse.
    pub fn error_at(&mut self, place: &Place, message: impl Into<String>) {
        self.push(Finding::error(place.clone(), message));
    }

    /// Adds a warning about what a policy names, and what to do.
    pub fn warning_at(&mut self, place: &Place, message: impl Into<String>, help: &str) {
        self.push(Finding::warning(place.clone(), message).help(help));
    }

    /// Adds an error that concerns a whole file.
    pub fn error_in_file(&mut self, path: &Path, message: impl Into<String>) {
        self.findings.push(Finding::new(Severity::Error, At::File(path.to_owned()), message));
    }

    /// Adds an error that concerns a directory.
    pub(super) fn error_in_directory(&mut self, path: &Path, message: impl Into<String>) {
        self.findings.push(Finding::new(Severity::Error, At::Directory(path.to_owned()), message));
    }

    /// Adds a warning that concerns a directory.
    pub(super) fn warning_in_directory(&mut self, path: &Path, message: impl Into<String>) {
        self.findings.push(Finding::new(Severity::Warning, At::Directory(path.to_owned()), message));
    }

    pub(super) fn push(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Adds what was found elsewhere, after what is here.
    pub fn merge(&mut self, other: Self) {
        self.findings.extend(other.findings);
    }

    /// As `Display`, with ANSI colours, for a terminal.
    #[must_use]
    pub fn colored(&self) -> String {
        self.render(&Renderer::styled())
    }

    /// The findings of one file, in the order of its lines.
    pub(super) fn of_file(mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(Finding::offset);
        Self { findings }
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    fn render(&self, renderer: &Renderer) -> String {
        let shown = self.findings.iter().take(MOST_SHOWN);
        let mut blocks: Vec<String> = shown.map(|finding| finding.render(renderer)).collect();
        if self.findings.len() > MOST_SHOWN {
            blocks.push(format!("and {} more", self.findings.len() - MOST_SHOWN));
        }
        blocks.push(self.summary());
        blocks.join("\n\n")
    }

    fn summary(&self) -> String {
        let plural = |number: usize, noun: &str| match number {
            1 => format!("1 {noun}"),
            other => format!("{other} {noun}s"),
        };
        match (self.errors(), self.warnings()) {
            (errors, 0) => plural(errors, "error"),
            (0, warnings) => plural(warnings, "warning"),
            (errors, warnings) => format!("{}, {}", plural(errors, "error"), plural(warnings, "warning")),
        }
    }
}

/// The text that a person reads: one block a finding, with file, line, column and a caret, and a line that counts them.
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(&Renderer::plain()))
    }
}

impl std::error::Error for Diagnostics {}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str, span: Range<usize>) -> Place {
        let source = SourceText { path: "/p/gateway.toml".into(), text: text.into() };
        Place { source: Arc::new(source), span }
    }

    #[test]
    fn a_finding_shows_file_line_column_and_caret() {
        let text = "[listen]\ncertifcate = \"x\"\n";
        let mut found = Diagnostics::of_file(vec![
            Finding::warning(place(text, 22..25), "later in the file"),
            Finding::error(place(text, 9..19), "unknown key `certifcate`")
                .also(place(text, 0..8), "in here")
                .help("did you mean `certificate`?"),
        ]);
        found.error_in_file(Path::new("/p/ca.pem"), "holds no certificate");
        insta::assert_snapshot!(found, @r#"
        error: unknown key `certifcate`
         --> /p/gateway.toml:2:1
          |
        2 | certifcate = "x"
          | ^^^^^^^^^^
          |
         ::: /p/gateway.toml:1:1
          |
        1 | [listen]
          | -------- in here
          |
          = help: did you mean `certificate`?

        warning: later in the file
         --> /p/gateway.toml:2:14
          |
        2 | certifcate = "x"
          |              ^^^

        error: holds no certificate
        --> /p/ca.pem:1:1

        2 errors, 1 warning
        "#);
        assert_eq!((found.errors(), found.warnings()), (2, 1));
        assert!(!found.to_string().contains('\u{1b}'));
        assert!(found.colored().contains('\u{1b}'));
    }

    #[test]
    fn odd_places_and_texts_are_shown_without_panic() {
        for text in ["", "\n", "é\r\nü\u{1b}[31m\t", "no newline", "\u{feff}a"] {
            for start in 0..12 {
                for end in 0..12 {
                    let found = Diagnostics::of_file(vec![Finding::error(place(text, start..end), "x")]);
                    let shown = found.to_string();
                    assert!(shown.contains("/p/gateway.toml:"), "{shown}");
                    assert!(!shown.contains('\u{1b}'));
                }
            }
        }
    }

    #[test]
    fn a_flood_of_findings_is_cut_and_counted() {
        let one = Finding::error(place("x", 0..1), "x");
        let found = Diagnostics::of_file(vec![one; MOST_SHOWN + 3]);
        let shown = found.to_string();
        assert!(shown.ends_with("and 3 more\n\n203 errors"), "{shown}");
    }

    #[test]
    fn merging_keeps_the_order_and_counts_both() {
        let mut first = Diagnostics::default();
        first.error_in_file(Path::new("/a"), "one");
        let mut second = Diagnostics::default();
        second.warning_in_directory(Path::new("/b"), "two");
        first.merge(second);
        assert_eq!(first.messages().collect::<Vec<_>>(), ["one", "two"]);
        assert!(first.to_string().ends_with("1 error, 1 warning"));
    }
}
