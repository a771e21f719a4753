//! How long a sender wants to wait: `Prefer: wait=<seconds>` (RFC 7240, section 4.3).
//!
//! A preference that cannot be read is ignored, as that RFC demands.

use std::time::Duration;

use axum::http::HeaderMap;

/// The `wait` preference, if there is one. The first of several counts.
pub(super) fn wait(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).find_map(|preference| {
        let token = preference.split(';').next()?;
        let (name, value) = token.split_once('=')?;
        let seconds = value.trim().trim_matches('"');
        let is_number = !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit());
        (name.trim().eq_ignore_ascii_case("wait") && is_number)
            .then(|| Duration::from_secs(seconds.parse().unwrap_or(u32::MAX).into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_preference_is_found_among_others() {
        for (value, expected) in [
            ("wait=10", Some(10)),
            ("respond-async, WAIT = \"7\";x=1", Some(7)),
            ("wait=99999999999", Some(u64::from(u32::MAX))),
            ("wait", None),
            ("wait=", None),
            ("wait=-1", None),
            ("wait=1.5", None),
            ("waiting=10", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", value.parse().unwrap());
            assert_eq!(wait(&headers), expected.map(Duration::from_secs), "{value}");
        }
    }
}
