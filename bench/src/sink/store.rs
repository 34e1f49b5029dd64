//! Where a sink's messages go, if anywhere: a maildir, or one JSON line each.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use memchr::memmem;
use serde::{Deserialize, Serialize};

/// One line of a dump file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dumped {
    /// The reverse-path, without its angle brackets.
    pub from: String,
    /// The forward-paths that were accepted.
    pub to: Vec<String>,
    /// Bytes of the message, dot-stuffing removed.
    pub size: usize,
    /// FNV-1a (64 bits, hexadecimal) of the message.
    pub hash: String,
    /// The same of what follows the header, which trace headers added on the way leave alone.
    pub body_hash: String,
    /// The message's Message-ID header, angle brackets and all.
    pub message_id: Option<String>,
    /// The id given in the reply.
    pub queue_id: String,
}

/// A message as it came, kept until its end is known to be good.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) from: String,
    pub(super) to: Vec<String>,
    /// Bytes as received; [`unstuff`] has been applied once the message is complete.
    pub(super) content: Vec<u8>,
}

/// Where messages are put.
pub(super) struct Store {
    maildir: Option<PathBuf>,
    dump: Option<File>,
    /// Dump lines not yet written; they go out once per turn of the loop.
    lines: Vec<u8>,
}

impl Store {
    pub(super) fn open(maildir: Option<&Path>, dump: Option<&Path>) -> io::Result<Self> {
        let named = |path: &Path, error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        };
        if let Some(path) = maildir {
            for part in ["tmp", "new", "cur"] {
                fs::create_dir_all(path.join(part)).map_err(|error| named(path, error))?;
            }
        }
        let dump = match dump {
            Some(path) => {
                let file = File::options().create(true).append(true).open(path);
                Some(file.map_err(|error| named(path, error))?)
            }
            None => None,
        };
        Ok(Store { maildir: maildir.map(Path::to_owned), dump, lines: Vec::new() })
    }

    /// Whether messages have to be kept at all.
    pub(super) fn wants_content(&self) -> bool {
        self.maildir.is_some() || self.dump.is_some()
    }

    pub(super) fn put(&mut self, draft: &Draft, queue_id: &str) -> io::Result<()> {
        if let Some(maildir) = &self.maildir {
            let name = unique_name();
            let written = maildir.join("tmp").join(&name);
            fs::write(&written, &draft.content)?;
            fs::rename(&written, maildir.join("new").join(&name))?;
        }
        if self.dump.is_some() {
            serde_json::to_writer(&mut self.lines, &describe(draft, queue_id))?;
            self.lines.push(b'\n');
        }
        Ok(())
    }

    /// Writes the dump lines gathered since the last time.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if let Some(file) = &mut self.dump
            && !self.lines.is_empty()
        {
            file.write_all(&self.lines)?;
            self.lines.clear();
        }
        Ok(())
    }
}

/// A name no other delivery to any maildir has (maildir(5): time, process, count, host).
fn unique_name() -> String {
    static DELIVERIES: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let count = DELIVERIES.fetch_add(1, Relaxed);
    format!("{}.M{:06}P{}Q{count}.sink", now.as_secs(), now.subsec_micros(), std::process::id())
}

fn describe(draft: &Draft, queue_id: &str) -> Dumped {
    let content = &draft.content;
    let header_end = match memmem::find(content, b"\r\n\r\n") {
        Some(at) => at + 2,
        None => content.len(),
    };
    let body = content.get(header_end + 2..).unwrap_or_default();
    Dumped {
        from: draft.from.clone(),
        to: draft.to.clone(),
        size: content.len(),
        hash: format!("{:016x}", fnv1a(content)),
        body_hash: format!("{:016x}", fnv1a(body)),
        message_id: message_id(&content[..header_end]),
        queue_id: queue_id.to_owned(),
    }
}

fn message_id(header: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"message-id:";
    let line = header
        .split(|b| *b == b'\n')
        .find(|line| line.get(..NAME.len()).is_some_and(|start| start.eq_ignore_ascii_case(NAME)))?;
    Some(String::from_utf8_lossy(&line[NAME.len()..]).trim().to_owned())
}

/// The 64-bit FNV-1a hash: plain to compute elsewhere, for comparing what came with what was sent.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Takes away the dot added to each line that begins with one (RFC 5321 4.5.2), in place.
pub(super) fn unstuff(content: &mut Vec<u8>) {
    let stuffed: Vec<usize> = memmem::find_iter(content, b"\r\n.").map(|at| at + 2).collect();
    let first = (content.first() == Some(&b'.')).then_some(0);
    let mut to = 0;
    let mut from = 0;
    for dot in first.into_iter().chain(stuffed) {
        content.copy_within(from..dot, to);
        to += dot - from;
        from = dot + 1;
    }
    let end = content.len();
    content.copy_within(from..end, to);
    content.truncate(to + end - from);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_unstuffed_only_at_the_start_of_a_line() {
        let plain = |text: &str| {
            let mut content = text.as_bytes().to_vec();
            unstuff(&mut content);
            String::from_utf8(content).expect("ascii")
        };
        assert_eq!(plain(""), "");
        assert_eq!(plain("..a\r\n..\r\nb.\r\n"), ".a\r\n.\r\nb.\r\n");
        assert_eq!(plain("a\n..b\r..c\r\n...\r\n"), "a\n..b\r..c\r\n..\r\n");
        assert_eq!(plain(".\r\n"), "\r\n");
    }

    #[test]
    fn a_dump_line_describes_the_message() {
        let content = b"Received: x\r\nMessage-Id: <1@x>\r\n\r\nhello\r\n".to_vec();
        let draft = Draft { from: "a@b".into(), to: vec!["c@d".into()], content };
        let line = describe(&draft, "Q1");
        assert_eq!(line.message_id.as_deref(), Some("<1@x>"));
        assert_eq!(line.body_hash, format!("{:016x}", fnv1a(b"hello\r\n")));
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(line.size, 41);
    }
}
