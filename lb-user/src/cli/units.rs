//! Quantities as people read and write them.

use std::time::Duration;

/// "1.2 MiB" (IEC 80000-13).
pub(super) fn bytes(number: u64) -> String {
    const PREFIXES: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut amount = number as f64 / 1024.0;
    let mut prefix = 0;
    // 1023.95 and more would be shown as 1024.0.
    while amount >= 1023.95 && prefix + 1 < PREFIXES.len() {
        amount /= 1024.0;
        prefix += 1;
    }
    format!("{amount:.1} {}B", PREFIXES[prefix])
}

/// "1day 3h 20m": whole seconds, the two or three units that matter.
pub(super) fn duration(seconds: u64) -> String {
    // Who reads of days does not look for seconds.
    let seconds = if seconds >= 86_400 { seconds - seconds % 60 } else { seconds };
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// "850 us", "1.2 ms", "2.0 s".
pub(super) fn micros(micros: u64) -> String {
    match micros {
        0..1000 => format!("{micros} us"),
        1000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.1} s", micros as f64 / 1e6),
    }
}

/// "12.5 %" of a share from 0 to 1.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Reads a duration in whole seconds, such as "10m".
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|_| "expected a duration, such as `30s` or `10m`".to_owned())?;
    match (duration.as_secs(), duration.subsec_nanos()) {
        (seconds @ 1.., 0) => Ok(seconds),
        _ => Err("expected whole seconds, at least `1s`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_one_decimal_and_never_1024_of_a_unit() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_258_291, "1.2 MiB"),
            (1_048_575, "1.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (number, text) in cases {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn durations_leave_out_what_does_not_matter() {
        assert_eq!(duration(0), "0s");
        assert_eq!(duration(600), "10m");
        assert_eq!(duration(86_400 + 3 * 3600 + 20 * 60 + 7), "1day 3h 20m");
    }

    #[test]
    fn latencies_have_a_unit_of_their_size() {
        assert_eq!([850, 1200, 2_000_000].map(micros), ["850 us", "1.2 ms", "2.0 s"]);
    }

    #[test]
    fn durations_are_read_as_whole_seconds() {
        assert_eq!(seconds("10m"), Ok(600));
        assert_eq!(seconds("1h 30s"), Ok(3630));
        for wrong in ["", "10", "500ms", "0s", "-1s", "soon"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
