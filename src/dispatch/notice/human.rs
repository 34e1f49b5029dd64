//! The part for people: what happened, what the other side said, and what happens next.

use std::io::{self, Write};

use super::original::Returned;
use super::{Kind, Report, text};
use crate::dispatch::date::Date;

/// Lines are filled up to here, in octets.
const WIDTH: usize = 76;

impl Report<'_> {
    pub(super) fn subject(&self) -> &'static str {
        match self.kind {
            Kind::Failed | Kind::Expired | Kind::Overdue => "Undelivered mail returned to sender",
            Kind::Delayed => "Your mail is delayed",
            Kind::Relayed => "Your mail was handed on",
            Kind::Delivered => "Your mail was delivered",
        }
    }

    pub(super) fn write_human(&self, out: &mut Vec<u8>, returned: &Returned) -> io::Result<()> {
        write!(out, "This is the mail system at {}.\r\n\r\n", self.settings.hostname)?;
        let what = match self.kind {
            Kind::Failed | Kind::Expired | Kind::Overdue => "could not be delivered to",
            Kind::Delayed => "has not been delivered yet to",
            Kind::Relayed => "was handed on for",
            Kind::Delivered => "was delivered to",
        };
        write!(out, "Your message {what}\r\n\r\n")?;
        for said in self.said {
            let address = self.address(said.recipient.path);
            write!(out, "  <{address}>\r\n")?;
            let words = match (said.is_theirs, said.remote) {
                (true, Some(remote)) => format!("{} said: {}", remote.name, self.words(said.reply)),
                (true, None) => format!("the next mail system said: {}", self.words(said.reply)),
                (false, _) => self.printable(said.reply.text),
            };
            text::fold(out, "      ", &words, WIDTH);
        }
        out.extend_from_slice(b"\r\n");
        text::fold(out, "", &self.what_next(), WIDTH);
        let Report { original, times, .. } = self;
        let what_follows = if returned.is_whole { "It follows below." } else { "Its header follows below." };
        let about = format!(
            "It came in on {} and has the id {} here. {what_follows}",
            Date(times.arrived),
            original.id
        );
        out.extend_from_slice(b"\r\n");
        text::fold(out, "", &about, WIDTH);
        Ok(())
    }

    fn what_next(&self) -> String {
        match self.kind {
            Kind::Failed => {
                "It will not be tried again for the above. This does not concern other recipients.".into()
            }
            Kind::Expired => "It has been tried for as long as mail is kept here, and is given up.".into(),
            Kind::Overdue => "It has been tried for as long as the sender gave it, and is given up.".into(),
            Kind::Delayed => match self.times.until {
                Some(until) => {
                    format!("It will be tried again until {}. You need not send it again.", Date(until))
                }
                None => "It will be tried again. You need not send it again.".into(),
            },
            Kind::Relayed if self.original.envelope.mail().by.is_some() => {
                "You gave it a time by which it is to be delivered. From here on that is up to the mail system \
                that has it now, which may not heed it."
                    .into()
            }
            Kind::Relayed => {
                "You asked to hear of its delivery. The mail system that has it now does not report \
                that, so this is the last good news. Should it fail there, you may be told."
                    .into()
            }
            Kind::Delivered => "You asked to hear of this.".into(),
        }
    }
}
