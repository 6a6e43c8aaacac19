//! Rate limits: how fast frames may pass in one direction, counted in bytes and in frames.
//!
//! Each limit is a bucket that fills at its rate. A frame passes while there is something in every bucket and may overdraw
//! it, so that one longer than a bucket passes too; the next one waits until the debt is paid.

use std::time::{Duration, Instant};

/// What one direction of a network card is limited to. Nothing said, nothing limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(serde::Serialize, serde::Deserialize))]
pub struct Rate {
    /// Bytes of frames a second, at least 1.
    pub bytes: Option<u64>,
    /// Bytes that may pass at once after a pause; none: a tenth of a second's.
    pub burst: Option<u64>,
    /// Frames a second, at least 1. One that is still to be cut up counts once.
    pub packets: Option<u64>,
}

/// The limits of a network card, in both directions as the guest sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(serde::Serialize, serde::Deserialize))]
pub struct Rates {
    /// To the guest.
    pub receive: Rate,
    /// From the guest.
    pub transmit: Rate,
}

/// Parts of a token: at N tokens a second, a nanosecond brings N of them.
const PARTS: i128 = 1_000_000_000;

/// Tokens that come at a rate, up to a number.
#[derive(Debug)]
struct Bucket {
    per_second: i128,
    most: i128,
    /// In parts of a token; below zero when it is overdrawn.
    level: i128,
    filled: Instant,
}

impl Bucket {
    fn new(per_second: u64, burst: Option<u64>, now: Instant) -> Self {
        let most = i128::from(burst.unwrap_or(per_second / 10).max(1)) * PARTS;
        Self { per_second: i128::from(per_second.max(1)), most, level: most, filled: now }
    }

    /// How long it takes until there is something in it.
    fn delay(&mut self, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.filled);
        self.filled = now;
        self.level = self.most.min(self.level + since.as_nanos() as i128 * self.per_second);
        match self.level {
            1.. => Duration::ZERO,
            debt => Duration::from_nanos((1 - debt / self.per_second) as u64),
        }
    }

    fn take(&mut self, tokens: u64) {
        self.level -= i128::from(tokens) * PARTS;
    }
}

/// What holds one direction to its [`Rate`].
#[derive(Debug)]
pub struct Limiter {
    bytes: Option<Bucket>,
    packets: Option<Bucket>,
}

impl Limiter {
    /// A limiter whose buckets are full at `now`; none where nothing is limited.
    pub fn new(rate: Rate, now: Instant) -> Option<Self> {
        let bytes = rate.bytes.map(|bytes| Bucket::new(bytes, rate.burst, now));
        let packets = rate.packets.map(|packets| Bucket::new(packets, None, now));
        (bytes.is_some() || packets.is_some()).then_some(Self { bytes, packets })
    }

    /// How long the next frame has to wait: zero if it may pass now.
    pub fn delay(&mut self, now: Instant) -> Duration {
        let buckets = [&mut self.bytes, &mut self.packets];
        buckets.into_iter().flatten().map(|bucket| bucket.delay(now)).max().unwrap_or_default()
    }

    /// A frame of so many bytes has passed.
    pub fn passed(&mut self, bytes: usize) {
        if let Some(bucket) = &mut self.bytes {
            bucket.take(bytes as u64);
        }
        if let Some(bucket) = &mut self.packets {
            bucket.take(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sends frames of `length` bytes as fast as they may pass for so many seconds; how many pass.
    fn passed(rate: Rate, length: usize, seconds: u64) -> u64 {
        let start = Instant::now();
        let (mut now, mut count) = (start, 0);
        let mut limiter = Limiter::new(rate, now).unwrap();
        while now.duration_since(start) < Duration::from_secs(seconds) {
            match limiter.delay(now) {
                Duration::ZERO => {
                    limiter.passed(length);
                    count += 1;
                }
                delay => now += delay,
            }
        }
        count
    }

    #[test]
    fn what_is_not_limited_has_no_limiter() {
        assert!(Limiter::new(Rate::default(), Instant::now()).is_none());
        assert!(Limiter::new(Rate { burst: Some(5), ..Rate::default() }, Instant::now()).is_none());
    }

    #[test]
    fn the_slower_of_two_limits_counts() {
        let rate = Rate { bytes: Some(1_000_000), packets: Some(100), ..Rate::default() };
        assert!((100..=112).contains(&passed(rate, 100, 1)));
        assert!((10..=12).contains(&passed(rate, 100_000, 1)));
    }

    #[test]
    fn a_burst_passes_at_once_and_no_more() {
        let now = Instant::now();
        let rate = Rate { bytes: Some(1000), burst: Some(5000), ..Rate::default() };
        let mut limiter = Limiter::new(rate, now).unwrap();
        let mut at_once = 0;
        while limiter.delay(now).is_zero() {
            limiter.passed(1000);
            at_once += 1;
        }
        assert_eq!(at_once, 5);
        // However long the pause, no more than the burst is saved up.
        let later = now + Duration::from_secs(1000);
        let again = (0..).take_while(|_| {
            limiter.delay(later).is_zero() && {
                limiter.passed(1000);
                true
            }
        });
        assert_eq!(again.count(), 5);
    }

    #[test]
    fn a_frame_longer_than_the_bucket_passes_and_is_paid_for() {
        let now = Instant::now();
        let mut limiter = Limiter::new(Rate { bytes: Some(1000), ..Rate::default() }, now).unwrap();
        assert!(limiter.delay(now).is_zero());
        limiter.passed(60_000);
        let delay = limiter.delay(now).as_secs_f64();
        assert!((59.0..=60.0).contains(&delay), "{delay}");
    }

    proptest! {
        #[test]
        fn no_rate_is_exceeded_and_none_is_missed(bytes in 1000u64..100_000_000, length in 60usize..65_000) {
            let rate = Rate { bytes: Some(bytes), ..Rate::default() };
            let sent = passed(rate, length, 10) * length as u64;
            // One bucket more at most, and the frame that overdraws it.
            prop_assert!(sent <= bytes * 10 + bytes / 10 + 2 * length as u64, "{}", sent);
            prop_assert!(sent >= bytes * 10, "{}", sent);
        }

        #[test]
        fn any_numbers_get_an_answer(bytes: u64, burst: Option<u64>, packets: Option<u64>, length: u32, later: u32) {
            let now = Instant::now();
            let mut limiter = Limiter::new(Rate { bytes: Some(bytes), burst, packets }, now).unwrap();
            limiter.passed(length as usize);
            let _ = limiter.delay(now);
            let _ = limiter.delay(now + Duration::from_millis(later.into()));
        }
    }
}
