//! When messages start: as soon as a session is free (closed loop), or at fixed times (open loop).

/// What is to be sent, and when. Times are nanoseconds of the run.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    /// Messages per second; none: closed loop.
    rate: Option<f64>,
    start_ns: u64,
    /// No message starts from here on.
    until_ns: u64,
    /// Most messages.
    limit: u64,
    issued: u64,
    /// Issued messages count.
    pub(super) measured: bool,
}

impl Schedule {
    pub(super) fn new(rate: Option<f64>, start_ns: u64, until_ns: Option<u64>, limit: Option<u64>) -> Self {
        let (until_ns, limit) = (until_ns.unwrap_or(u64::MAX), limit.unwrap_or(u64::MAX));
        Schedule { rate, start_ns, until_ns, limit, issued: 0, measured: true }
    }

    /// When the next message is meant to start, if one is left.
    pub(super) fn next_ns(&self, now: u64) -> Option<u64> {
        let at = match self.rate {
            Some(rate) => self.start_ns + (self.issued as f64 * 1e9 / rate) as u64,
            None => now,
        };
        (self.issued < self.limit && at < self.until_ns && now < self.until_ns).then_some(at)
    }

    /// Takes the next message if its time has come, and says what that time was.
    pub(super) fn take(&mut self, now: u64) -> Option<u64> {
        let at = self.next_ns(now).filter(|at| *at <= now)?;
        self.issued += 1;
        Some(at)
    }

    /// The time to hand out messages by, when the last look was at `before`: a loop that wakes up just after the
    /// end still owes what was due before it.
    pub(super) fn owed_at(&self, before: u64, now: u64) -> u64 {
        if before < self.until_ns { now.min(self.until_ns - 1) } else { now }
    }

    /// Messages whose time has passed without being taken.
    pub(super) fn missed(&self, now: u64) -> u64 {
        let Some(rate) = self.rate else { return 0 };
        let span = now.min(self.until_ns).saturating_sub(self.start_ns);
        let scheduled = ((span as f64 * rate / 1e9).ceil() as u64).min(self.limit);
        scheduled.saturating_sub(self.issued)
    }

    /// No message starts any more.
    pub(super) fn close(&mut self, now: u64) {
        self.until_ns = self.until_ns.min(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn an_open_loop_keeps_its_times_however_late_it_is_asked() {
        let mut schedule = Schedule::new(Some(1_000.0), SECOND, Some(2 * SECOND), None);
        assert_eq!(schedule.take(SECOND - 1), None);
        assert_eq!(schedule.take(SECOND), Some(SECOND));
        assert_eq!(schedule.take(SECOND), None);
        assert_eq!(schedule.next_ns(SECOND), Some(SECOND + 1_000_000));
        let late = SECOND + SECOND / 2;
        assert_eq!(schedule.take(late), Some(SECOND + 1_000_000));
        assert_eq!(schedule.take(late), Some(SECOND + 2_000_000));
        assert_eq!(schedule.missed(3 * SECOND), 997);
        assert_eq!(schedule.take(2 * SECOND), None);
        let owed = schedule.owed_at(2 * SECOND - 5, 2 * SECOND + 5);
        assert_eq!(schedule.take(owed), Some(SECOND + 3_000_000));
        assert_eq!(schedule.owed_at(2 * SECOND + 5, 2 * SECOND + 9), 2 * SECOND + 9);
    }

    #[test]
    fn a_closed_loop_goes_on_to_its_limit() {
        let mut schedule = Schedule::new(None, 0, None, Some(2));
        assert_eq!(schedule.take(5), Some(5));
        assert_eq!(schedule.take(9), Some(9));
        assert_eq!(schedule.take(9), None);
        assert_eq!(schedule.missed(9), 0);
    }
}
