//! Rows of durations.

use std::time::Duration;

/// What was measured many times.
#[derive(Debug, Default)]
pub struct Sample(Vec<Duration>);

impl Sample {
    /// Adds one.
    pub fn push(&mut self, one: Duration) {
        self.0.push(one);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest value that at least this share of all does not exceed; zero for none.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of some dozens"
        )]
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted
            .get(rank.saturating_sub(1).min(sorted.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    }

    /// The middle one.
    pub fn median(&self) -> Duration {
        self.quantile(0.5)
    }

    /// The largest.
    pub fn max(&self) -> Duration {
        self.quantile(1.0)
    }

    /// Median, p99 and maximum as text.
    pub fn text(&self) -> String {
        format!(
            "median {}, p99 {}, max {} ({} runs)",
            millis(self.median()),
            millis(self.quantile(0.99)),
            millis(self.max()),
            self.len()
        )
    }
}

/// A duration in milliseconds, as text.
pub fn millis(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1000.0;
    if millis < 10.0 {
        format!("{millis:.2} ms")
    } else {
        format!("{millis:.0} ms")
    }
}
