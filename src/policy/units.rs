//! Quantities with a unit: durations (`5m`), sizes (`64KiB`) and rates (`60/m`).
//!
//! One whole number and one unit; no signs, fractions, spaces or sums, so that each quantity has one reading.

use std::num::NonZeroU32;
use std::time::Duration;

use super::Rate;

/// Longest duration of a policy: ten years, so that a point in time plus a duration stays one.
pub const LONGEST: Duration = Duration::from_secs(3650 * 86_400);

const DURATIONS: [(&str, Duration); 5] = [
    ("ms", Duration::from_millis(1)),
    ("s", Duration::from_secs(1)),
    ("m", Duration::from_secs(60)),
    ("h", Duration::from_secs(3600)),
    ("d", Duration::from_secs(86_400)),
];
const SIZES: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotADuration {
    /// It has another form.
    #[error("a duration is a whole number and one of the units ms, s, m, h, d, such as `5m`")]
    Form,
    /// It is longer than [`LONGEST`].
    #[error("a duration is at most `3650d`")]
    TooLong,
}

/// A text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a size is a whole number and one of the units B, KiB, MiB, GiB, such as `64KiB`")]
pub struct NotASize;

/// A text that is not a rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a rate is a whole number from 1, a slash and one of s, m, h, d, such as `60/m`")]
pub struct NotARate;

/// Reads a duration such as `500ms` or `5m`.
///
/// # Errors
/// When the text has another form or the duration is too long.
pub fn duration(text: &str) -> Result<Duration, NotADuration> {
    let (number, unit) = number_and_rest(text).ok_or(NotADuration::Form)?;
    let (_, unit) = DURATIONS.iter().find(|(name, _)| *name == unit).ok_or(NotADuration::Form)?;
    let count = number.parse::<u32>().map_err(|_| NotADuration::TooLong)?;
    let duration = unit.checked_mul(count).ok_or(NotADuration::TooLong)?;
    if duration > LONGEST { Err(NotADuration::TooLong) } else { Ok(duration) }
}

/// Reads a size such as `64KiB`, in bytes.
///
/// # Errors
/// When the text has another form or the size does not fit this machine.
pub fn size(text: &str) -> Result<usize, NotASize> {
    let (number, unit) = number_and_rest(text).ok_or(NotASize)?;
    let (_, unit) = SIZES.iter().find(|(name, _)| *name == unit).ok_or(NotASize)?;
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*unit)).ok_or(NotASize)?;
    usize::try_from(bytes).map_err(|_| NotASize)
}

/// Reads a rate such as `60/m`; its burst is its number.
///
/// # Errors
/// When the text has another form or the number is 0.
pub fn rate(text: &str) -> Result<Rate, NotARate> {
    let (number, rest) = number_and_rest(text).ok_or(NotARate)?;
    let unit = rest.strip_prefix('/').filter(|unit| *unit != "ms").ok_or(NotARate)?;
    let (_, period) = DURATIONS.iter().find(|(name, _)| *name == unit).ok_or(NotARate)?;
    let limit = number.parse::<NonZeroU32>().map_err(|_| NotARate)?;
    Ok(Rate { limit, period: *period, burst: limit })
}

fn number_and_rest(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, rest) = text.split_at(end);
    if number.is_empty() { None } else { Some((number, rest)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn other_forms_are_refused() {
        for bad in ["", "5", "m", "5 m", "5M", "-5m", "+5m", "1.5m", "1h30m", "5min", "5m ", "٥m", "5µs"] {
            assert_eq!(duration(bad), Err(NotADuration::Form), "{bad:?}");
        }
        for bad in ["3651d", "99999999999s", "5000000000ms"] {
            assert_eq!(duration(bad), Err(NotADuration::TooLong), "{bad:?}");
        }
        for bad in [
            "",
            "64",
            "KiB",
            "64 KiB",
            "64KB",
            "64kib",
            "64K",
            "-1B",
            "99999999999999999999B",
            "17179869184GiB",
        ] {
            assert_eq!(size(bad), Err(NotASize), "{bad:?}");
        }
        for bad in ["", "60", "60/", "/m", "0/m", "60/min", "60/ms", "60 /m", "4294967296/s", "-1/s"] {
            assert_eq!(rate(bad), Err(NotARate), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(number in 1..3000_u32, unit in 0..5_usize, size_unit in 0..4_usize) {
            let (name, length) = DURATIONS[unit];
            prop_assert_eq!(duration(&format!("{number}{name}")), Ok(length * number));
            let (name, bytes) = SIZES[size_unit];
            prop_assert_eq!(size(&format!("{number}{name}")).map(|size| size as u64), Ok(bytes * u64::from(number)));
            if unit > 0 {
                let (name, period) = DURATIONS[unit];
                let read = rate(&format!("{number}/{name}"));
                prop_assert_eq!(read.map(|rate| (rate.limit.get(), rate.burst.get(), rate.period)), Ok((number, number, period)));
            }
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = (duration(&text), size(&text), rate(&text));
        }
    }
}
