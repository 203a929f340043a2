//! Figures of repeated measurements, and how they are printed: medians, and ratios to ours.

use std::time::Duration;

use crate::report;

/// The measurements of one VMM in one bench.
#[derive(Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(super) fn push_ms(&mut self, time: Duration) {
        self.push(time.as_secs_f64() * 1e3);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// NaN when nothing was measured.
    pub(super) fn median(&self) -> f64 {
        let sorted = self.sorted();
        let half = sorted.len() / 2;
        match (
            sorted.get(half),
            half.checked_sub(1).and_then(|below| sorted.get(below)),
        ) {
            (Some(&upper), Some(&lower)) if sorted.len().is_multiple_of(2) => {
                f64::midpoint(lower, upper)
            }
            (Some(&middle), _) => middle,
            (None, _) => f64::NAN,
        }
    }
}

/// Prints the head of the table.
pub(super) fn header() {
    let [what, who, min, median, max] = ["", "", "min", "median", "max"];
    report::data(&format!(
        "{what:28} {who:18} {min:>10} {median:>10} {max:>10}"
    ));
}

/// Prints one table row: what, who, min / median / max, unit, count, and the ratio of `ours` to it.
pub(super) fn row(what: &str, who: &str, samples: &Samples, unit: &str, ours: Option<f64>) {
    let sorted = samples.sorted();
    let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else {
        report::data(&format!("{what:28} {who:18} no measurement"));
        return;
    };
    let median = samples.median();
    let ratio = ours.map_or_else(String::new, |ours| {
        format!("  ours/it {:.3}", ours / median)
    });
    report::data(&format!(
        "{what:28} {who:18} {min:10.3} {median:10.3} {max:10.3} {unit:6} n={}{ratio}",
        sorted.len()
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let of = |values: &[f64]| Samples(values.to_vec()).median();
        assert_eq!(of(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(of(&[]).is_nan());
    }
}
