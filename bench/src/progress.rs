//! One line on a terminal that says how a run goes; nothing in a pipe.

use std::io::{self, IsTerminal, Write};

use crate::load::{Observer, Progress};
use crate::text::{grouped, micros};

/// Rewrites one line on stderr with each [`Progress`], if stderr is a terminal.
pub struct Line {
    terminal: bool,
    drawn: bool,
}

impl Line {
    /// Looks at once whether stderr is a terminal.
    pub fn new() -> Self {
        Line { terminal: io::stderr().is_terminal(), drawn: false }
    }

    /// Draws the line anew.
    pub fn show(&mut self, progress: &Progress) {
        if self.terminal {
            self.drawn = true;
            // A terminal that has gone away is no reason to end a run.
            let _ = write!(io::stderr(), "\r\x1b[K{}", describe(progress));
        }
    }

    /// Takes the line away, so that what follows begins on a clean one.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Default for Line {
    fn default() -> Self {
        Line::new()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Observer for Line {
    fn measured(&mut self) {
        self.clear();
    }

    fn progress(&mut self, progress: &Progress) {
        self.show(progress);
    }
}

fn describe(progress: &Progress) -> String {
    let seconds = progress.elapsed.as_secs_f64();
    if progress.warming_up {
        let acknowledged = grouped(progress.acknowledged);
        return format!("{seconds:6.1} s  warming up  acknowledged {acknowledged}  {:.0}/s", progress.rate);
    }
    let failed = match progress.failed {
        0 => String::new(),
        failed => format!("  failed {}", grouped(failed)),
    };
    format!(
        "{seconds:6.1} s  sent {}  acknowledged {}{failed}  {:.0}/s  p50 {}  p99 {}",
        grouped(progress.sent),
        grouped(progress.acknowledged),
        progress.rate,
        micros(progress.p50_us as f64),
        micros(progress.p99_us as f64),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_line_says_what_counts() {
        let mut progress = Progress {
            elapsed: Duration::from_millis(2_500),
            sent: 12_064,
            acknowledged: 12_000,
            rate: 4_800.4,
            p50_us: 900,
            p99_us: 12_345,
            ..Default::default()
        };
        let line = "   2.5 s  sent 12,064  acknowledged 12,000  4800/s  p50 900 µs  p99 12.3 ms";
        assert_eq!(describe(&progress), line);
        progress.failed = 3;
        assert!(describe(&progress).contains("failed 3"));
        progress.warming_up = true;
        assert!(describe(&progress).contains("warming up"));
    }
}
