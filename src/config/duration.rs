//! Durations as people write them: `"30s"`, `"5m"`, `"1h 30m"`, `"500ms"`.

use std::time::Duration;

use jiff::SignedDuration;

/// The duration that `text` says.
///
/// # Errors
/// What is wrong with it, as a fragment: no unit, not a duration, negative.
pub fn parse(text: &str) -> Result<Duration, String> {
    if text.trim().parse::<f64>().is_ok() {
        return Err(format!(
            "{text:?} has no unit; write {:?}",
            format!("{}s", text.trim())
        ));
    }
    // Not every form that the parser takes is meant here: no ISO 8601, no "1 day ago".
    let parsed: SignedDuration = (!text.trim_start().starts_with(['P', 'p', '-', '+']))
        .then(|| text.parse().ok())
        .flatten()
        .ok_or_else(|| {
            format!(
                "{text:?} is not a duration; write it as \"30s\", \"5m\", \"1h 30m\" or \"500ms\""
            )
        })?;
    Duration::try_from(parsed).map_err(|_| format!("{text:?} is negative"))
}

/// `duration` in the shortest form that [`parse`] takes: `30s`, `1m 30s`, `500ms`.
pub fn format(duration: Duration) -> String {
    match SignedDuration::try_from(duration) {
        Ok(signed) => format!("{signed:#}"),
        Err(_) => format!("{}s", duration.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_units_only() {
        for (text, millis) in [
            ("30s", 30_000),
            ("500ms", 500),
            ("5m", 300_000),
            ("1h 30m", 5_400_000),
            ("1h30m", 5_400_000),
            ("2 minutes", 120_000),
            ("0s", 0),
            ("1.5s", 1500),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in [
            "",
            "30",
            "1.5",
            "s",
            "-5s",
            "5s ago",
            "PT5S",
            "5 parsecs",
            "+5s",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["30s", "500ms", "1m", "1m 30s", "30m", "1h", "20ms", "0s"] {
            assert_eq!(format(parse(text).unwrap()), text);
        }
    }
}
