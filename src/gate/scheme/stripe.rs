//! `stripe`: `Stripe-Signature: t=<seconds>,v1=<hex>`, the HMAC of time, a dot and the body.
//! <https://docs.stripe.com/webhooks/signature>
//!
//! While a secret is rolled there are several `v1`, of which one must be right; elements of other names are ignored, as
//! Stripe demands.

use super::Why;
use super::claim::{Claim, Proof};
use super::header::{self, Problem, decode};
use crate::policy::Scheme;
use crate::policy::scheme::{Digest, Encoding};

/// Most signatures that are looked at in one header.
const MOST: usize = 8;

pub(super) fn read(line: &[u8]) -> Result<Claim, Why> {
    let malformed = |problem| header::why(Scheme::Stripe.header(), problem);
    let (mut time, mut macs) = (None, Vec::new());
    for element in line.split(|byte| *byte == b',') {
        let mut parts = element.splitn(2, |byte| *byte == b'=');
        match (parts.next(), parts.next()) {
            (Some(b"t"), Some(text)) if time.is_none() => time = Some(text),
            (Some(b"v1"), Some(text)) if macs.len() < MOST => {
                macs.push(decode(text, Encoding::Hex).ok_or_else(|| malformed(Problem::Malformed))?);
            }
            (Some(b"t" | b"v1"), _) | (_, None) => return Err(malformed(Problem::Malformed)),
            (_, Some(_)) => {}
        }
    }
    let text = time.filter(|_| !macs.is_empty()).ok_or_else(|| malformed(Problem::Malformed))?;
    let created = header::time(text).ok_or_else(|| malformed(Problem::NotATime))?;
    let proof = Proof::Mac { digest: Digest::Sha256, before: [text, b"."].concat(), macs };
    Ok(Claim { proof, created: Some(created), id: None })
}

#[cfg(test)]
mod tests {
    use super::super::verifier::tests::{refused, refused_at, verified_at};
    use super::*;

    const AT: i64 = 1_700_000_000;
    const SECRET: &[u8] = b"whsec_test_secret";
    const BODY: &[u8] = br#"{"id":"evt_1","ok":true}"#;
    const HEX: &str = "37a95fb1d4e2907a03665ddd5a05909c593926845fb8fd8940138f5f26b732eb";

    #[test]
    fn a_signature_that_stripes_own_code_made_is_verified_within_the_window() {
        let good = format!("t={AT},v1={HEX}");
        let signed = verified_at(AT, &Scheme::Stripe, SECRET, &[("Stripe-Signature", &good)], BODY);
        assert_eq!(signed.created.map(jiff::Timestamp::as_second), Some(AT));
        for ahead in [-300, 300] {
            verified_at(AT + ahead, &Scheme::Stripe, SECRET, &[("Stripe-Signature", &good)], BODY);
        }
        for ahead in [-301, 301] {
            let why = refused_at(AT + ahead, &Scheme::Stripe, SECRET, &[("Stripe-Signature", &good)], BODY);
            assert_eq!(why, Why::OutsideWindow { seconds: -ahead });
        }
        let other = HEX.replace('3', "4");
        for good in [
            format!("t={AT},v1={other},v1={HEX}"),
            format!("t={AT},v1={HEX},v1={other},v0=x"),
            format!("v0=,v1={HEX},t={AT}"),
        ] {
            verified_at(AT, &Scheme::Stripe, SECRET, &[("Stripe-Signature", &good)], BODY);
        }
    }

    #[test]
    fn what_is_not_of_its_form_or_was_changed_is_refused() {
        let many = format!("t={AT}{}", format!(",v1={HEX}").repeat(MOST + 1));
        for bad in [
            "".to_owned(),
            HEX.to_owned(),
            format!("v1={HEX}"),
            format!("t={AT}"),
            format!("t={AT},v1="),
            format!("t={AT},v0={HEX}"),
            format!("t={AT},v1={HEX},"),
            format!("t={AT}, v1={HEX}"),
            format!("t={AT},t={AT},v1={HEX}"),
            format!("t=0{AT},v1={HEX}"),
            format!("t={},v1={HEX}", AT + 1),
            format!("t={AT},v1={}", HEX.to_uppercase()),
            format!("t={AT},v1={}", HEX.replace('3', "4")),
            many,
        ] {
            refused(&Scheme::Stripe, SECRET, &[("Stripe-Signature", &bad)], BODY);
        }
    }
}
