//! The steps of an SMTP dialogue at which something can be refused, dropped, or timed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A step of the dialogue, by what the client did last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The connection, answered by the greeting.
    Connect,
    /// EHLO or HELO.
    Ehlo,
    /// MAIL FROM.
    Mail,
    /// RCPT TO, each.
    Rcpt,
    /// DATA; with CHUNKING the first BDAT of a message, and those that are not the last.
    Data,
    /// The end of the data, answered by the final reply.
    Eod,
    /// Everything else: RSET, NOOP, QUIT, unknown commands.
    Other,
}

impl Stage {
    /// All stages, in the order of a dialogue.
    pub const ALL: [Stage; 7] =
        [Stage::Connect, Stage::Ehlo, Stage::Mail, Stage::Rcpt, Stage::Data, Stage::Eod, Stage::Other];

    /// The name used in options and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Connect => "connect",
            Stage::Ehlo => "ehlo",
            Stage::Mail => "mail",
            Stage::Rcpt => "rcpt",
            Stage::Data => "data",
            Stage::Eod => "eod",
            Stage::Other => "other",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Stage {
    type Err = String;

    /// Reads a stage that rules can name (`other` is not one).
    fn from_str(text: &str) -> Result<Self, String> {
        let named = Stage::ALL.into_iter().find(|stage| *stage != Stage::Other && stage.name() == text);
        named.ok_or_else(|| {
            format!("`{text}` is not a stage: expected connect, ehlo, mail, rcpt, data or eod")
        })
    }
}
