//! What senders ask about time: that a message is held (FUTURERELEASE), and by when it is wanted (DELIVERBY); and what must
//! be true of that.

use std::time::Duration;

use postlane::protocol::server::FutureRelease;
use postlane::time::Instant;
use postlane::time::civil::date_of_day;

use crate::dice::Dice;
use crate::message::{Fate, Message};
use crate::play::{Count, Play, Turn};
use crate::stage::Setup;
use crate::upstream::{Taken, find};

/// Bytes may be under way that long, and what is told in seconds is rounded.
const SLACK: Duration = Duration::from_millis(1_500);

/// What a sender asked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    /// From MAIL on.
    hold: Option<Duration>,
    /// No earlier than then.
    until: Option<Instant>,
    by: Option<By>,
    /// When MAIL was said, and when it was answered.
    pub(crate) mailed_at: Instant,
    pub(crate) taken_on_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct By {
    seconds: i64,
    returns: bool,
    trace: bool,
}

/// Listeners offer both where there is a spool, else what needs none.
pub(crate) fn offer(setup: &mut Setup) {
    let server = &mut setup.listener.server;
    server.deliver_by = true;
    server.future_release =
        setup.keep.is_some().then_some(FutureRelease { seconds_max: 86_400, unix_now: 0 });
}

/// Has some senders ask, and some upstreams heed it. Drawn apart, so that the rest of a seed's world stays as it is.
pub(crate) fn draw(play: &mut Play, seed: u64) {
    let mut dice = Dice::new(seed ^ 0x071e_1e55);
    if dice.chance(0.4) {
        return;
    }
    for upstream in &mut play.upstreams {
        upstream.manner.deliver_by = dice.pick(&[None, Some(0), Some(0), Some(5)]);
    }
    let is_kept = play.stage.setup.keep.is_some();
    let leaps = play.turns.iter().any(|(_, turn)| matches!(turn, Turn::Leap(_)));
    let now = play.stage.world.now();
    for message in &mut play.messages {
        let mut held = 0;
        if is_kept && dice.chance(0.2) {
            held = dice.pick(&[1, 3, 10, 30]);
            if leaps || dice.chance(0.6) {
                message.hold_for(held);
            } else {
                message.hold_until(now.as_nanos() / 1_000_000_000 + held, play.stage.unix_at_zero_ms);
            }
        }
        if dice.chance(0.3) {
            let (seconds, returns) = (dice.pick(&[1, 2, 5, 20, 60]), dice.chance(0.6));
            let by = By { seconds, returns, trace: dice.chance(0.2) };
            let is_over = !returns && dice.chance(0.1);
            // What could not be delivered in time is not taken.
            if !returns || held + 1 < seconds as u64 {
                message.give_time(By { seconds: if is_over { -seconds } else { seconds }, ..by });
            }
        }
    }
}

impl Message {
    pub(crate) fn hold_for(&mut self, seconds: u64) {
        self.asked.hold = Some(Duration::from_secs(seconds));
        self.parameters += &format!(" HOLDFOR={seconds}");
    }

    /// `at`: seconds on the world's clock.
    fn hold_until(&mut self, at: u64, unix_at_zero_ms: i64) {
        self.asked.until = Some(Instant::from_nanos(at * 1_000_000_000));
        self.parameters += &format!(" HOLDUNTIL={}", date(at, unix_at_zero_ms));
    }

    fn give_time(&mut self, by: By) {
        self.parameters += &format!(" BY={};{}", by.seconds, by.mode());
        self.asked.by = Some(by);
    }

    pub(crate) fn return_after(&mut self, seconds: i64) {
        self.give_time(By { seconds, returns: true, trace: false });
    }
}

impl By {
    fn mode(self) -> String {
        format!("{}{}", if self.returns { "R" } else { "N" }, if self.trace { "T" } else { "" })
    }
}

/// As HOLDUNTIL has it; `at`: seconds on the world's clock.
fn date(at: u64, unix_at_zero_ms: i64) -> String {
    let unix = at + unix_at_zero_ms as u64 / 1000;
    let (year, month, day) = date_of_day(unix / 86_400);
    let (hour, minute, second) = (unix / 3600 % 24, unix / 60 % 60, unix % 60);
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", month + 1)
}

impl Asked {
    /// Before then it may not go.
    fn release(&self) -> Instant {
        self.until.unwrap_or_default().max(self.mailed_at + self.hold.unwrap_or_default())
    }

    /// Its sender's time was over no earlier than then, and no later.
    fn deadline(&self) -> Option<(Instant, Option<Instant>)> {
        let seconds = u64::try_from(self.by?.seconds).unwrap_or(0);
        let after = |at: Instant| at + Duration::from_secs(seconds);
        Some((after(self.mailed_at), self.taken_on_at.map(after)))
    }

    /// Is its sender to hear from us that it was handed on, because of the time it gave?
    fn is_told_of(&self, taken: &Taken) -> bool {
        self.by.is_some_and(|by| by.trace || !by.returns && !taken.heeds_time)
    }
}

impl Play {
    /// Anybody that does not heed time is cause to go elsewhere.
    pub(crate) fn has_hurry(&self) -> bool {
        self.messages.iter().any(|message| message.asked.by.is_some_and(|by| by.returns))
    }

    fn has_leapt(&self) -> bool {
        self.leaps > 0
    }

    /// Was it handed on by somebody else's leave than its sender's?
    fn is_flushed(&self, message: &Message, taken: &Taken) -> bool {
        self.flushes.iter().any(|at| (message.asked.mailed_at..=taken.at).contains(at))
    }

    /// Taken neither before its time nor, if it was to come back, when that was over; and told what was left.
    pub(crate) fn judge_time(&self, message: &Message, taken: &Taken, count: &mut Count) {
        let (n, asked) = (message.number, &message.asked);
        // Over a start what was asked is counted by the calendar.
        let is_by_another_calendar = self.has_leapt() && self.stage.setup.run > 1;
        if asked.hold.is_some() || asked.until.is_some() {
            count.held += 1;
            assert!(
                taken.at >= asked.release() || self.is_flushed(message, taken) || is_by_another_calendar,
                "message {n} was taken at {:?}, and held until {:?}",
                taken.at,
                asked.release()
            );
        }
        let Some(by) = asked.by else {
            return assert_eq!(taken.by, None, "message {n}: nothing was said of time");
        };
        count.timed += 1;
        assert_eq!(taken.by.is_some(), taken.heeds_time, "message {n}: BY goes to those that offer it");
        assert!(
            !by.returns || taken.heeds_time,
            "message {n}: to come back, and with one that heeds no time"
        );
        if self.has_leapt() {
            return;
        }
        if let Some(told) = &taken.by {
            let (seconds, mode) = told.split_once(';').unwrap();
            let seconds: i64 = seconds.parse().unwrap();
            let gone = taken.at.since(asked.mailed_at).as_secs() as i64 + 1;
            assert!(
                (by.seconds - gone..=by.seconds).contains(&seconds),
                "message {n}: {told} after {gone} s"
            );
            assert!(!by.returns || seconds > 0, "message {n}: {told}");
            assert_eq!(mode, by.mode(), "message {n}");
        }
        if let Some((_, Some(latest))) = asked.deadline().filter(|_| by.returns) {
            assert!(
                taken.begun <= latest + SLACK,
                "message {n} was offered at {:?}, and to come back at {latest:?}",
                taken.begun
            );
        }
    }

    /// What its sender was told of its time: nothing that is not so, and that it was late. True if it was not told of that.
    pub(crate) fn judge_lateness(
        &self,
        message: &Message,
        recipient: &str,
        takings: &[&Taken],
        notices: &[&Taken],
        count: &mut Count,
    ) -> bool {
        let n = message.number;
        let lines = format!("\r\nFinal-Recipient: rfc822; {recipient}\r\nAction: ");
        let says = |words: &str| {
            let wanted = format!("{lines}{words}\r\n");
            let says = |notice: &&&Taken| {
                notice.mail.starts_with("<>") && find(&notice.data, wanted.as_bytes()).is_some()
            };
            notices.iter().find(says).copied()
        };
        let by = message.asked.by;
        let (delayed, overdue) = (says("delayed"), says("failed\r\nStatus: 5.4.7"));
        count.late += u64::from(delayed.is_some());
        count.overdue += u64::from(overdue.is_some());
        assert!(delayed.is_none() || by.is_some_and(|by| !by.returns), "message {n}: told of a delay");
        assert!(overdue.is_none() || by.is_some_and(|by| by.returns), "message {n}: it need not come back");
        let Some((earliest, Some(latest))) = message.asked.deadline() else { return false };
        if self.has_leapt() {
            return false;
        }
        let is_early = |notice: &Taken| notice.at < earliest;
        assert!(!delayed.is_some_and(is_early), "message {n}: told of a delay before its time was over");
        let is_ours = message.fate == Fate::Answered(250) && message.answered_at < earliest;
        let is_late = takings.iter().all(|taken| taken.since > latest + SLACK) && !takings.is_empty();
        let is_asked = message.notify.is_empty() && !message.sender.is_empty();
        let is_excused =
            !self.crashes.is_empty() || self.has_failing_disk || self.is_deleted(recipient, message);
        let goes_on = by.is_some_and(|by| !by.returns);
        let is_to_be_told = goes_on && is_ours && is_late && is_asked && !is_excused;
        if is_to_be_told && delayed.is_none() && self.trace {
            println!("message {n}: late for {recipient}, and its sender was not told");
        }
        is_to_be_told && delayed.is_none()
    }

    /// Is its sender to hear of that from us for the sake of time?
    pub(crate) fn is_told_for_time(&self, message: &Message, taken: &Taken) -> bool {
        !message.notify.contains("NEVER") && message.asked.is_told_of(taken)
    }
}
