//! The headers that `-H` gives: parsed and checked while the command line is read, so that a bad one is a usage error.
//!
//! Refuses headers that the client or the signature sets itself, and any header twice.

use axum::http::header::{self, HeaderName, HeaderValue};
use clap::error::{Error, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// Headers that follow from the rest of the request.
const SET_BY_US: [HeaderName; 8] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::EXPECT,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("signature"),
    HeaderName::from_static("signature-input"),
];
const ID: &str = "headers";

/// Headers, none of them twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(HeaderName, HeaderValue)>);

impl Headers {
    /// In the order in which they were given.
    #[must_use]
    pub fn as_slice(&self) -> &[(HeaderName, HeaderValue)] {
        &self.0
    }
}

impl FromArgMatches for Headers {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (name, value) in matches.get_many::<(HeaderName, HeaderValue)>(ID).into_iter().flatten() {
            if headers.iter().any(|(known, _)| known == name) {
                let text = format!("the header `{name}` is given twice");
                return Err(Error::raw(ErrorKind::ArgumentConflict, text));
            }
            headers.push((name.clone(), value.clone()));
        }
        Ok(Self(headers))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Headers {
    fn augment_args(command: Command) -> Command {
        command.arg(
            Arg::new(ID)
                .short('H')
                .long("header")
                .value_name("NAME: VALUE")
                .action(ArgAction::Append)
                .value_parser(parse)
                .help(
                    "A header, 'Name: value'; may be given several times. Where the request is signed, it is \
                     signed too",
                ),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn parse(given: &str) -> Result<(HeaderName, HeaderValue), String> {
    let hint = || "a header reads 'X-GitHub-Event: push'".to_owned();
    let (name, value) = given.split_once(':').ok_or_else(hint)?;
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| hint())?;
    let value = HeaderValue::from_str(value.trim_matches([' ', '\t'])).map_err(|_| hint())?;
    if SET_BY_US.contains(&name) {
        return Err(format!("the header `{name}` is set by this command itself: leave it out"));
    }
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(given: &[&str]) -> Result<Headers, String> {
        let given = given.iter().flat_map(|given| ["-H", given]);
        let command = Headers::augment_args(Command::new("x")).no_binary_name(true);
        command
            .try_get_matches_from(given)
            .and_then(|matches| Headers::from_arg_matches(&matches))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn headers_are_taken_in_order_without_the_space_around_them() {
        let headers = headers(&["X-B:  2 ", "x-a:"]).unwrap();
        let text: Vec<_> = headers.as_slice().iter().map(|(name, value)| (name.as_str(), value)).collect();
        assert_eq!(text, [("x-b", &HeaderValue::from_static("2")), ("x-a", &HeaderValue::from_static(""))]);
    }

    #[test]
    fn headers_that_cannot_be_sent_are_refused_with_a_hint() {
        for (given, hint) in [
            (&["no colon"][..], "X-GitHub-Event: push"),
            (&["a b: c"], "X-GitHub-Event: push"),
            (&["a: \u{1}"], "X-GitHub-Event: push"),
            (&["Host: other"], "leave it out"),
            (&["Signature: x"], "leave it out"),
            (&["Content-Digest: x"], "leave it out"),
            (&["X-A: 1", "x-a: 2"], "twice"),
        ] {
            let refusal = headers(given).unwrap_err();
            assert!(refusal.contains(hint), "{refusal}");
        }
    }
}
