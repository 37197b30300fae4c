//! Arithmetic on times: spans of stream time in nanoseconds and the grid of sound samples.

use serde::{Deserialize, Serialize};

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// A half-open span `[start_ns, end_ns)` of stream time, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span {
    /// First nanosecond inside the span.
    pub start_ns: u64,
    /// First nanosecond after the span; never before `start_ns`.
    pub end_ns: u64,
}

impl Span {
    /// The span from `start_ns` to `end_ns`; empty at `start_ns` where the end comes first.
    pub fn new(start_ns: u64, end_ns: u64) -> Self {
        Self { start_ns, end_ns: end_ns.max(start_ns) }
    }

    /// Length in nanoseconds.
    pub fn duration_ns(self) -> u64 {
        self.end_ns - self.start_ns
    }

    /// Whether the span holds no time at all.
    pub fn is_empty(self) -> bool {
        self.end_ns == self.start_ns
    }

    /// Whether `ns` lies inside.
    pub fn contains(self, ns: u64) -> bool {
        (self.start_ns..self.end_ns).contains(&ns)
    }

    /// The common part; empty (at the later start) where there is none.
    pub fn intersect(self, other: Self) -> Self {
        Self::new(self.start_ns.max(other.start_ns), self.end_ns.min(other.end_ns))
    }

    /// Whether the two share at least one nanosecond.
    pub fn overlaps(self, other: Self) -> bool {
        !self.intersect(other).is_empty()
    }

    /// The instant in the middle.
    pub fn middle_ns(self) -> u64 {
        self.start_ns + self.duration_ns() / 2
    }
}

/// Index of the sample nearest to `ns` on the grid whose sample 0 is at stream time 0.
///
/// Cutting two neighbouring spans on this grid neither drops nor repeats a sample.
pub fn sample_at(ns: u64, rate: u32) -> u64 {
    let scaled = u128::from(ns) * u128::from(rate) + u128::from(SECOND / 2);
    u64::try_from(scaled / u128::from(SECOND)).unwrap_or(u64::MAX)
}

/// Stream time of sample `index` on the grid of `rate` samples a second, in nanoseconds, rounded to nearest.
pub fn time_of_sample(index: u64, rate: u32) -> u64 {
    let rate = u128::from(rate.max(1));
    u64::try_from((u128::from(index) * u128::from(SECOND) + rate / 2) / rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sample_is_found_at_its_own_time(index in 0u64..1 << 40, rate in 1u32..384_000) {
            prop_assert_eq!(sample_at(time_of_sample(index, rate), rate), index);
        }

        #[test]
        fn the_nearest_sample_is_at_most_half_a_step_away(ns in 0u64..1 << 50, rate in 1u32..384_000) {
            let found = time_of_sample(sample_at(ns, rate), rate);
            prop_assert!(found.abs_diff(ns) <= SECOND / u64::from(rate) / 2 + 1);
        }

        #[test]
        fn the_common_part_lies_in_both(a in 0u64..100, b in 0u64..100, c in 0u64..100, d in 0u64..100) {
            let (x, y) = (Span::new(a, b), Span::new(c, d));
            let common = x.intersect(y);
            for ns in 0..100 {
                prop_assert_eq!(common.contains(ns), x.contains(ns) && y.contains(ns));
            }
        }
    }
}
