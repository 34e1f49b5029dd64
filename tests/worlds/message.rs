//! Messages that clients send, and what becomes of them.

use postlane::time::Instant;

use crate::dice::Dice;
use crate::timely::Asked;

/// What is known of a message at its sender's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// Its final dot has not left the client.
    Unsent,
    /// It has, and no answer came.
    Unanswered,
    /// The answer to the final dot, or to DATA.
    Answered(u16),
}

#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) number: usize,
    pub(crate) sender: String,
    /// MAIL's parameters.
    pub(crate) parameters: String,
    /// What they say of time.
    pub(crate) asked: Asked,
    pub(crate) recipients: Vec<String>,
    /// The parameter of each RCPT.
    pub(crate) notify: &'static str,
    /// In wire form, without the final `.CRLF`.
    pub(crate) data: Vec<u8>,
    /// It holds what may not be forwarded.
    pub(crate) violation: bool,
    pub(crate) fate: Fate,
    /// When it was answered, and that it was for want of a disk.
    pub(crate) answered_at: Instant,
    pub(crate) disk_refused: bool,
}

impl Message {
    /// As it goes by BDAT. What is a violation stays as it is.
    pub(crate) fn unstuffed(&self) -> Vec<u8> {
        if self.violation {
            return self.data.clone();
        }
        let lines = self.data.split_inclusive(|&byte| byte == b'\n');
        lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect()
    }

    /// A message by chance. Its number is in its addresses, so that it is known wherever it turns up.
    pub(crate) fn draw(number: usize, dice: &mut Dice) -> Message {
        Message::draw_within(number, usize::MAX, dice)
    }

    /// The same, no longer than that.
    pub(crate) fn draw_within(number: usize, most: usize, dice: &mut Dice) -> Message {
        let count = if dice.chance(0.5) { 1 } else { dice.between(2, 5) };
        let recipients = (0..count).map(|r| format!("m{number}.r{r}@d{}.example", dice.below(6))).collect();
        let violation = dice.chance(0.06);
        let eight_bit = dice.chance(0.1);
        let len = match dice.below(20) {
            0 | 1 => 0,
            2..=11 => dice.between(1, 4_000),
            12..=16 => dice.between(4_000, 40_000),
            17 => dice.between(100_000, 600_000),
            18 => dice.between(40_000, 200_000),
            _ if dice.chance(0.2) => 1 << 20,
            _ => 16 * 1024,
        };
        let mut data = lines(len.min(most), eight_bit, dice);
        if violation {
            spoil(&mut data, number, dice);
        }
        let sender = if dice.chance(0.05) { String::new() } else { format!("m{number}@sender.example") };
        let parameters = match (eight_bit, dice.below(10)) {
            (true, _) => " BODY=8BITMIME",
            (false, 0) => " RET=HDRS ENVID=world",
            (false, 1) => " SMTPUTF8",
            _ => "",
        };
        let parameters = parameters.to_owned();
        let notify = match number % 5 {
            0 => " NOTIFY=SUCCESS,FAILURE",
            1 => " NOTIFY=NEVER",
            _ => "",
        };
        let plain = Message::plain(number, 0, &mut Dice::new(0));
        Message { sender, parameters, recipients, notify, data, violation, ..plain }
    }

    /// A plain one: one recipient, so many bytes.
    pub(crate) fn plain(number: usize, len: usize, dice: &mut Dice) -> Message {
        Message {
            number,
            sender: format!("m{number}@sender.example"),
            parameters: String::new(),
            asked: Asked::default(),
            recipients: vec![format!("m{number}.r0@d{}.example", dice.below(50))],
            notify: "",
            data: lines(len, false, dice),
            violation: false,
            fate: Fate::Unsent,
            answered_at: Instant::NEVER,
            disk_refused: false,
        }
    }
}

/// About `len` bytes of lines, dot-stuffed where they have to be.
fn lines(len: usize, eight_bit: bool, dice: &mut Dice) -> Vec<u8> {
    let mut data = Vec::with_capacity(len + 1002);
    while data.len() < len {
        if dice.chance(0.1) {
            data.extend_from_slice(b"..");
        }
        let line = if dice.chance(0.02) { dice.between(1_000, 5_000) } else { dice.below(120) };
        let start = dice.next() as u8;
        let text = (0..line).map(|i| match b' ' + start.wrapping_add((i as u8).wrapping_mul(7)) % 95 {
            b'.' if i == 0 => b'x',
            byte if eight_bit && i % 11 == 0 => byte | 0x80,
            byte => byte,
        });
        data.extend(text);
        data.extend_from_slice(b"\r\n");
    }
    data
}

/// Puts into it what no message may hold; sometimes another message, smuggled.
fn spoil(data: &mut Vec<u8>, number: usize, dice: &mut Dice) {
    let smuggled =
        format!("MAIL FROM:<x@sender.example>\r\nRCPT TO:<smuggled{number}@d0.example>\r\nDATA\r\nboo\r\n");
    let ends = ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r"];
    let bad = match dice.below(4) {
        0 => "\n".to_owned(),
        1 => "a\0b\r\n".to_owned(),
        _ => format!("text{}{smuggled}", dice.pick(&ends)),
    };
    // Never so that a CR LF comes about by where it is put.
    let ends = memchr::memmem::find_iter(data, b"\r\n").map(|at| at + 2);
    let places: Vec<usize> = std::iter::once(0).chain(ends).collect();
    let at = dice.pick(&places);
    let mut bad = bad.into_bytes();
    if bad == b"\n" && at == 0 {
        bad = b"x\ny\r\n".to_vec();
    }
    data.splice(at..at, bad);
    if !data.ends_with(b"\r\n") {
        data.extend_from_slice(b"\r\n");
    }
}
