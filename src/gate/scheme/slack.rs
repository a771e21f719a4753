//! `slack`: `X-Slack-Signature: v0=<hex>`, the HMAC of `v0`, the time of `X-Slack-Request-Timestamp` and the body, with
//! colons between them. <https://docs.slack.dev/authentication/verifying-requests-from-slack>

use axum::http::HeaderMap;

use super::Why;
use super::claim::{Claim, Proof};
use super::header::{self, Problem, decode};
use crate::policy::Scheme;
use crate::policy::scheme::{Digest, Encoding};

const TIME: &str = "x-slack-request-timestamp";

pub(super) fn read(line: &[u8], headers: &HeaderMap) -> Result<Claim, Why> {
    let mac = line.strip_prefix(b"v0=").and_then(|text| decode(text, Encoding::Hex));
    let mac = mac.ok_or_else(|| header::why(Scheme::Slack.header(), Problem::Malformed))?;
    let text = header::companion(headers, TIME)?;
    let created = header::time(text).ok_or_else(|| header::why(TIME, Problem::NotATime))?;
    let before = [b"v0:", text, b":"].concat();
    let proof = Proof::Mac { digest: Digest::Sha256, before, macs: vec![mac] };
    Ok(Claim { proof, created: Some(created), id: None })
}

#[cfg(test)]
mod tests {
    use super::super::verifier::tests::{absent, refused_at, verified_at};
    use super::*;

    // Slack's page: the example of "Verifying requests from Slack".
    const AT: i64 = 1_531_420_618;
    const SECRET: &[u8] = b"8f742231b10e8888abcd99yyyzzz85a5";
    const BODY: &[u8] = b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    const SIGNATURE: &str = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";

    fn headers<'a>(signature: &'a str, time: &'a str) -> [(&'a str, &'a str); 2] {
        [("X-Slack-Signature", signature), ("X-Slack-Request-Timestamp", time)]
    }

    #[test]
    fn the_published_example_is_verified_within_the_window() {
        let good = headers(SIGNATURE, "1531420618");
        for ahead in [-300, 0, 300] {
            verified_at(AT + ahead, &Scheme::Slack, SECRET, &good, BODY);
        }
        for ahead in [-301, 301] {
            let why = refused_at(AT + ahead, &Scheme::Slack, SECRET, &good, BODY);
            assert_eq!(why, Why::OutsideWindow { seconds: -ahead });
        }
    }

    #[test]
    fn what_is_not_of_its_form_or_was_changed_is_refused() {
        for (signature, time) in [
            (SIGNATURE, "1531420619"),
            (SIGNATURE, "01531420618"),
            (SIGNATURE, ""),
            (&SIGNATURE.replace("v0=", "v1="), "1531420618"),
            (&SIGNATURE.replace("v0=", ""), "1531420618"),
            (&SIGNATURE.replace('d', "D"), "1531420618"),
            (&SIGNATURE.replace('d', "e"), "1531420618"),
        ] {
            refused_at(AT, &Scheme::Slack, SECRET, &headers(signature, time), BODY);
        }
        let why = refused_at(AT, &Scheme::Slack, SECRET, &[("X-Slack-Signature", SIGNATURE)], BODY);
        assert_eq!(why, header::why(TIME, Problem::Missing));
        let twice = [headers(SIGNATURE, "1531420618"), headers(SIGNATURE, "1531420618")].concat();
        refused_at(AT, &Scheme::Slack, SECRET, &twice, BODY);
        refused_at(AT, &Scheme::Slack, SECRET, &twice[..3], BODY);
        refused_at(AT, &Scheme::Slack, SECRET, &twice[1..], BODY);
        absent(&Scheme::Slack, SECRET, &headers(SIGNATURE, "1531420618")[1..], BODY);
    }
}
