//! `standard-webhooks`: `webhook-id`, `webhook-timestamp` and `webhook-signature`, the HMAC of the three parts id, time and
//! body with dots between them. GitLab's signing tokens are the same.
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>
//!
//! There may be several signatures, of which one `v1` must be right; those of other versions are ignored.

use axum::http::HeaderMap;

use super::claim::{Claim, Proof};
use super::header::{self, Problem, decode};
use super::{LONGEST_ID, Why};
use crate::policy::Scheme;
use crate::policy::scheme::{Digest, Encoding};

/// Most signatures that are looked at in one header.
const MOST: usize = 8;
const ID: &str = "webhook-id";
const TIME: &str = "webhook-timestamp";

pub(super) fn read(line: &[u8], headers: &HeaderMap) -> Result<Claim, Why> {
    let id = header::companion(headers, ID)?;
    // With a dot in it, the end of an id could pass for a time, and the time for the start of a body.
    let plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'.';
    let readable = (1..=LONGEST_ID).contains(&id.len()) && id.iter().all(plain);
    let text = std::str::from_utf8(id).ok().filter(|_| readable);
    let text = text.ok_or_else(|| header::why(ID, Problem::Malformed))?;
    let time = header::companion(headers, TIME)?;
    let created = header::time(time).ok_or_else(|| header::why(TIME, Problem::NotATime))?;
    let macs =
        macs(line).ok_or_else(|| header::why(Scheme::StandardWebhooks.header(), Problem::Malformed))?;
    let before = [id, b".", time, b"."].concat();
    let proof = Proof::Mac { digest: Digest::Sha256, before, macs };
    Ok(Claim { proof, created: Some(created), id: Some(text.to_owned()) })
}

/// All signatures of version 1; `None` when there is none, or one that cannot be read.
fn macs(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let signatures = line.split(|byte| *byte == b' ').filter_map(|signature| signature.strip_prefix(b"v1,"));
    let macs: Vec<_> = signatures.map(|text| decode(text, Encoding::Base64)).collect::<Option<_>>()?;
    (1..=MOST).contains(&macs.len()).then_some(macs)
}

#[cfg(test)]
mod tests {
    use super::super::verifier::tests::{absent, refused_at, verified_at};
    use super::*;

    // The reference implementations' test vector; the secret is what `whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw` decodes to.
    const AT: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn secret() -> Vec<u8> {
        Scheme::StandardWebhooks
            .secret(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
            .unwrap()
            .expose()
            .to_vec()
    }

    fn headers<'a>(id: &'a str, time: &'a str, signature: &'a str) -> [(&'a str, &'a str); 3] {
        [("webhook-id", id), ("webhook-timestamp", time), ("webhook-signature", signature)]
    }

    #[test]
    fn the_published_vector_is_verified_within_the_window() {
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        for signature in
            [SIGNATURE.to_owned(), format!("v1,AAAA {SIGNATURE}"), format!("{SIGNATURE} v1a,not even base64")]
        {
            let sent = headers(id, "1614265330", &signature);
            for ahead in [-300, 0, 300] {
                let signed = verified_at(AT + ahead, &Scheme::StandardWebhooks, &secret(), &sent, BODY);
                assert_eq!(signed.id, super::super::Id::Own(id.to_owned()));
            }
            for ahead in [-301, 301] {
                let why = refused_at(AT + ahead, &Scheme::StandardWebhooks, &secret(), &sent, BODY);
                assert_eq!(why, Why::OutsideWindow { seconds: -ahead });
            }
        }
    }

    #[test]
    fn what_is_not_of_its_form_or_was_changed_is_refused() {
        let (id, time) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330");
        let many = [SIGNATURE; MOST + 1].join(" ");
        for (id, time, signature) in [
            ("msg_p5jXN8AQM9LWM0D4loKWxJeK", time, SIGNATURE),
            ("", time, SIGNATURE),
            ("a.b", time, SIGNATURE),
            ("a b", time, SIGNATURE),
            (&"x".repeat(LONGEST_ID + 1), time, SIGNATURE),
            (id, "1614265331", SIGNATURE),
            (id, "01614265330", SIGNATURE),
            (id, "", SIGNATURE),
            (id, time, ""),
            (id, time, &SIGNATURE[3..]),
            (id, time, &SIGNATURE.replace("v1,", "v2,")),
            (id, time, &SIGNATURE.replace('=', "")),
            (id, time, &SIGNATURE.replace("OE=", "OF=")),
            (id, time, &SIGNATURE.replace(',', "=")),
            (id, time, &SIGNATURE.replace("g0", "g1")),
            (id, time, &many),
        ] {
            refused_at(AT, &Scheme::StandardWebhooks, &secret(), &headers(id, time, signature), BODY);
        }
        let all = headers(id, time, SIGNATURE);
        for missing in 0..2 {
            let sent: Vec<_> =
                all.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, one)| *one).collect();
            let why = refused_at(AT, &Scheme::StandardWebhooks, &secret(), &sent, BODY);
            assert_eq!(why, header::why([ID, TIME][missing], Problem::Missing));
        }
        for doubled in all {
            let sent = [&all[..], &[doubled]].concat();
            refused_at(AT, &Scheme::StandardWebhooks, &secret(), &sent, BODY);
        }
        absent(&Scheme::StandardWebhooks, &secret(), &all[..2], BODY);
    }
}
