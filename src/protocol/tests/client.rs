//! The upstream side, by table and by script.

use super::options;
use crate::protocol::client::{Capabilities, Client, Event, Lack, Terms};
use crate::protocol::wire::command::{Mail, Recipient};
use crate::protocol::wire::later::{ByMode, DeliverBy};
use crate::protocol::{BodyKind, Envelope, MailParameters};

const NAME: &str = "us.example";
const PIPELINING: &[u8] = b"220 hi\r\n250-up\r\n250-PIPELINING\r\n250 SIZE 5000\r\n";
const PLAIN: &[u8] = b"220 hi\r\n250 up\r\n";

/// A link with what it wrote and heard.
#[derive(Default)]
struct Link {
    client: Client,
    out: Vec<u8>,
}

impl Link {
    fn ready(greetings: &[u8]) -> Link {
        let mut link = Link::default();
        assert_eq!(link.hear(greetings), ["Ready"]);
        assert_eq!(link.written(), "EHLO us.example\r\n");
        link
    }

    /// The events of this input, in short.
    fn hear(&mut self, input: &[u8]) -> Vec<String> {
        let mut events = Vec::new();
        let mut at = 0;
        loop {
            let (taken, event) = self.client.receive(&input[at..], NAME, &mut self.out);
            at += taken;
            match event {
                None => break,
                Some(event) => events.push(short(event)),
            }
        }
        assert_eq!(at, input.len());
        events
    }

    fn written(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.out)).expect("text")
    }

    fn begin(&mut self, envelope: &Envelope) {
        assert!(self.client.can_begin());
        let recipients: Vec<u16> = (0..envelope.len() as u16).collect();
        self.client.begin(envelope, &recipients, 0, &mut self.out);
    }

    fn advance(&mut self, envelope: &Envelope) -> String {
        let recipients: Vec<u16> = (0..envelope.len() as u16).collect();
        self.client.advance(envelope, &recipients, &mut self.out);
        self.written()
    }
}

fn short(event: Event<'_>) -> String {
    match event {
        Event::Ready => "Ready".into(),
        Event::Broken(why) => format!("Broken {why}"),
        Event::Refused(reply) => format!("Refused {}", reply.code),
        Event::Mail(reply) => format!("Mail {}", reply.code),
        Event::Recipient(position, reply) => format!("Recipient {position} {}", reply.code),
        Event::Data(reply) => format!("Data {}", reply.code),
        Event::Final(reply) => format!("Final {}", reply.code),
        Event::Closing(reply) => format!("Closing {}", reply.code),
    }
}

fn envelope(sender: &str, recipients: &[&str]) -> Envelope {
    let mut envelope = Envelope::default();
    envelope.set_sender(&Mail { path: sender.as_bytes(), parameters: MailParameters::default() });
    for path in recipients {
        envelope.push_recipient(&Recipient { path: path.as_bytes(), notify: None, orcpt: None });
    }
    envelope
}

#[test]
fn hellos() {
    for (input, events, written) in [
        ("220 a\r\n250 b\r\n", "Ready", "EHLO us.example\r\n"),
        ("220-a\r\n220 b\r\n250-c\r\n250 d\r\n", "Ready", "EHLO us.example\r\n"),
        ("220 a\n250 b\n", "Ready", "EHLO us.example\r\n"),
        ("220\r\n250\r\n", "Ready", "EHLO us.example\r\n"),
        ("220 a\r\n500 b\r\n250 c\r\n", "Ready", "EHLO us.example\r\nHELO us.example\r\n"),
        ("220 a\r\n500 b\r\n550 c\r\n", "Refused 550", "EHLO us.example\r\nHELO us.example\r\n"),
        ("220 a\r\n450 b\r\n", "Refused 450", "EHLO us.example\r\n"),
        ("554 a\r\n250 b\r\n", "Refused 554", ""),
        ("421 a\r\n", "Closing 421", ""),
        ("220 a\r\n421 a\r\n250 b\r\n", "Closing 421", "EHLO us.example\r\n"),
        ("hello\r\n", "Broken not a reply", ""),
        ("220-a\r\n250 b\r\n", "Broken codes differ within a reply", ""),
        ("220 a\r\n250 b\r\n250 c\r\n", "Ready, Broken a reply to nothing", "EHLO us.example\r\n"),
        ("220 a\r\n250 b\r\n421 c\r\n", "Ready, Closing 421", "EHLO us.example\r\n"),
    ] {
        let mut link = Link::default();
        assert_eq!(link.hear(input.as_bytes()).join(", "), events, "{input:?}");
        assert_eq!(link.written(), written, "{input:?}");
    }
}

#[test]
fn capabilities_are_learnt() {
    let mut link = Link::ready(
        b"220 a\r\n250-PIPELINING\r\n250-pipelining\r\n250-8BITMIME\r\n250-SIZE 77\r\n250-DSN\r\n250-STARTTLS\r\n\
          250-AUTH PLAIN\r\n250-a-keyword-that-is-very-long-indeed\r\n250 ENHANCEDSTATUSCODES \r\n",
    );
    let found = link.client.capabilities();
    let expected = Capabilities {
        pipelining: true,
        eight_bit: true,
        dsn: true,
        starttls: true,
        enhanced: true,
        size: Some(77),
        ..Capabilities::default()
    };
    assert_eq!(found, expected);
    link = Link::ready(b"220 a\r\n250-PIPELINING\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n250 SIZE\r\n");
    let expected = Capabilities { utf8: true, chunking: true, size: Some(0), ..Capabilities::default() };
    assert_eq!(link.client.capabilities(), expected, "the first line is the upstream's name");
    for (line, least) in
        [("DELIVERBY", 0), ("deliverby 240", 240), ("DELIVERBY 60,new", 60), ("DELIVERBY ,new", 0)]
    {
        let link = Link::ready(format!("220 a\r\n250-a\r\n250 {line}\r\n").as_bytes());
        assert_eq!(link.client.capabilities().deliver_by, Some(least), "{line}");
    }
    let mut fallen_back = Link::default();
    fallen_back.hear(b"220 a\r\n550-a\r\n550-DSN\r\n550 x\r\n250-b\r\n250 DSN\r\n");
    assert_eq!(fallen_back.client.capabilities(), Capabilities::default(), "HELO has none");
}

#[test]
fn what_it_lacks() {
    let mut mail = MailParameters::default();
    let mut lacks = |body, utf8, size| {
        (mail.body, mail.utf8) = (body, utf8);
        let mut envelope = Envelope::default();
        envelope.set_sender(&Mail { path: b"", parameters: mail });
        let some = Capabilities { size: Some(100), ..Capabilities::default() };
        let chunks = Capabilities { pipelining: true, chunking: true, binary: true, ..some };
        let all = Capabilities { eight_bit: true, utf8: true, size: Some(0), ..chunks };
        assert_eq!(all.lacks(&envelope, size), None);
        some.lacks(&envelope, size)
    };
    assert_eq!(lacks(BodyKind::SevenBit, false, 100), None);
    assert_eq!(lacks(BodyKind::SevenBit, false, 101), Some(Lack::Size));
    assert_eq!(lacks(BodyKind::EightBit, false, 1), Some(Lack::EightBit));
    assert_eq!(lacks(BodyKind::EightBit, true, 1), Some(Lack::Utf8));
    assert_eq!(lacks(BodyKind::Binary, false, 1), Some(Lack::Binary));
    let envelope = Envelope::default();
    for (deliver_by, seconds, lack) in [
        (None, 900, Some(Lack::Time)),
        (Some(0), 1, None),
        (Some(0), 0, Some(Lack::Time)),
        (Some(60), 60, None),
        (Some(60), 59, Some(Lack::Time)),
    ] {
        let upstream = Capabilities { deliver_by, ..Capabilities::default() };
        let lacks = |mode| {
            let by = Some(DeliverBy { seconds, mode, trace: false });
            upstream.lacks(&envelope, Terms { size: 1, by })
        };
        assert_eq!(lacks(ByMode::Return), lack, "{deliver_by:?}, {seconds} left");
        assert_eq!(lacks(ByMode::Notify), None, "it goes on in any case");
    }
}

#[test]
fn pipelined_transactions_overlap() {
    let mut link = Link::ready(PIPELINING);
    let (one, two) = (envelope("a@b", &["c@d", "e@f"]), envelope("", &["g@h"]));
    link.begin(&one);
    assert_eq!(link.written(), "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\nDATA\r\n");
    assert!(!link.client.can_begin() && !link.client.is_idle());
    assert!(!link.client.break_off(), "DATA is under way");
    let events = link.hear(b"250 a\r\n250 b\r\n550 c\r\n354 d\r\n");
    assert_eq!(events, ["Mail 250", "Recipient 0 250", "Recipient 1 550", "Data 354"]);
    assert!(!link.client.can_begin());
    assert!(link.advance(&one).is_empty());
    link.client.body_written();
    assert!(link.client.can_begin() && !link.client.is_idle());
    link.begin(&two);
    assert_eq!(link.written(), "MAIL FROM:<>\r\nRCPT TO:<g@h>\r\nDATA\r\n");
    let events = link.hear(b"250 taken\r\n250 a\r\n250 b\r\n354 c\r\n");
    assert_eq!(events, ["Final 250", "Mail 250", "Recipient 0 250", "Data 354"]);
    link.client.body_written();
    assert_eq!(link.hear(b"451 later\r\n"), ["Final 451"]);
    assert!(link.client.is_idle());
}

#[test]
fn a_refused_data_is_followed_by_rset() {
    let mut link = Link::ready(PIPELINING);
    let message = envelope("a@b", &["c@d"]);
    link.begin(&message);
    assert_eq!(link.hear(b"550 a\r\n503 b\r\n503 c\r\n"), ["Mail 550", "Recipient 0 503", "Data 503"]);
    assert!(link.client.is_idle());
    link.written();
    link.begin(&message);
    assert_eq!(link.written(), "RSET\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n");
    let events = link.hear(b"250 reset\r\n250 a\r\n250 b\r\n354 c\r\n");
    assert_eq!(events, ["Mail 250", "Recipient 0 250", "Data 354"]);
}

#[test]
fn a_data_taken_without_recipients_is_abandoned() {
    let mut link = Link::ready(PIPELINING);
    link.begin(&envelope("a@b", &["c@d"]));
    link.written();
    assert_eq!(link.hear(b"250 a\r\n550 b\r\n354 c\r\n").len(), 3);
    link.client.abandon(&mut link.out);
    assert_eq!(link.written(), ".\r\n");
    assert_eq!(link.hear(b"554 none\r\n"), ["Final 554"]);
    assert!(link.client.is_idle());
}

#[test]
fn step_by_step_without_pipelining() {
    let mut link = Link::ready(PLAIN);
    let message = envelope("a@b", &["c@d", "e@f"]);
    link.begin(&message);
    assert_eq!(link.written(), "MAIL FROM:<a@b>\r\n");
    assert!(link.advance(&message).is_empty(), "not before the reply");
    assert_eq!(link.hear(b"250 a\r\n"), ["Mail 250"]);
    assert_eq!(link.advance(&message), "RCPT TO:<c@d>\r\n");
    assert!(link.advance(&message).is_empty(), "not twice");
    assert_eq!(link.hear(b"250 a\r\n"), ["Recipient 0 250"]);
    assert_eq!(link.advance(&message), "RCPT TO:<e@f>\r\n");
    assert_eq!(link.hear(b"250 a\r\n"), ["Recipient 1 250"]);
    assert_eq!(link.advance(&message), "DATA\r\n");
    assert!(!link.client.break_off());
    assert_eq!(link.hear(b"354 a\r\n"), ["Data 354"]);
    link.client.body_written();
    // The next one waits for the final reply, and is then said at once.
    link.begin(&message);
    assert_eq!(link.written(), "");
    assert_eq!(link.hear(b"250 taken\r\n"), ["Final 250"]);
    assert_eq!(link.written(), "MAIL FROM:<a@b>\r\n");
    assert_eq!(link.hear(b"250 a\r\n"), ["Mail 250"]);
}

#[test]
fn broken_off_without_pipelining() {
    let message = envelope("a@b", &["c@d"]);
    // After a reply.
    let mut link = Link::ready(PLAIN);
    link.begin(&message);
    assert_eq!(link.hear(b"450 a\r\n"), ["Mail 450"]);
    link.written();
    assert!(link.client.break_off());
    assert!(link.client.is_idle());
    link.begin(&message);
    assert_eq!(link.written(), "RSET\r\n");
    assert!(link.hear(b"250 reset\r\n").is_empty());
    assert_eq!(link.written(), "MAIL FROM:<a@b>\r\n");
    // With a reply due.
    assert!(link.client.break_off());
    assert!(!link.client.is_idle());
    link.begin(&message);
    assert_eq!(link.written(), "");
    assert!(link.hear(b"250 mail\r\n").is_empty());
    assert_eq!(link.written(), "RSET\r\n");
    // Before MAIL was said.
    assert!(link.client.break_off());
    link.begin(&message);
    assert!(link.hear(b"250 reset\r\n").is_empty());
    assert_eq!(link.written(), "MAIL FROM:<a@b>\r\n");
    assert_eq!(link.hear(b"250 a\r\n"), ["Mail 250"]);
    // Twice before even RSET was said.
    link.advance(&message);
    assert!(link.client.break_off());
    link.begin(&message);
    assert!(link.client.break_off());
    assert!(link.hear(b"250 rcpt\r\n").is_empty());
    assert!(link.client.is_idle());
    assert_eq!(link.written(), "");
    link.begin(&message);
    assert_eq!(link.written(), "RSET\r\n");
    // And a QUIT takes back what was held.
    link.client.quit(&mut link.out);
    assert_eq!(link.written(), "QUIT\r\n");
    assert!(link.hear(b"250 reset\r\n221 bye\r\n").is_empty());
    assert_eq!(link.written(), "");
}

#[test]
fn quitting() {
    let mut link = Link::ready(PIPELINING);
    link.client.quit(&mut link.out);
    assert_eq!(link.written(), "QUIT\r\n");
    assert!(!link.client.is_idle() && !link.client.can_begin());
    assert!(link.hear(b"221 bye\r\nwhatever").is_empty());
}

#[test]
fn replies_have_a_bound() {
    let mut text = String::new();
    let long = format!("250-{}\r\n", "x".repeat(3000)).repeat(3) + "250 end\r\n";
    let mut link = Link::ready(PIPELINING);
    link.begin(&envelope("a@b", &["c@d"]));
    let (_, event) = link.client.receive(long.as_bytes(), NAME, &mut link.out);
    if let Some(Event::Mail(reply)) = event {
        text = String::from_utf8_lossy(reply.text).into_owned();
    }
    assert_eq!(text.len(), 4096);
    assert_eq!(link.hear("250-x\r\n".repeat(10_000).as_bytes()), ["Broken reply too long"]);
    let mut unending = Link::ready(PIPELINING);
    assert_eq!(unending.hear(&[b'2'; 70_000]), ["Broken reply too long"]);
}

#[test]
fn parameters_are_written_if_offered() {
    let mut taken = super::Session::default();
    taken.feed(
        b"EHLO c\r\nMAIL FROM:<a@b> SIZE=5 BODY=8BITMIME SMTPUTF8 RET=FULL ENVID=e\r\n\
          RCPT TO:<c@d> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;x\r\nRCPT TO:<e@f> NOTIFY=NEVER\r\nDATA\r\n.\r\n",
        &options(),
    );
    let (message, _) = &taken.taken[0];
    let mut link = Link::ready(
        b"220 a\r\n250-a\r\n250-SIZE\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 PIPELINING\r\n",
    );
    link.client.begin(message, &[1, 0], 777, &mut link.out);
    assert_eq!(
        link.written(),
        "MAIL FROM:<a@b> SIZE=777 BODY=8BITMIME SMTPUTF8 RET=FULL ENVID=e\r\n\
         RCPT TO:<e@f> NOTIFY=NEVER\r\nRCPT TO:<c@d> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;x\r\nDATA\r\n"
    );
    let by = Some(DeliverBy { seconds: -7, mode: ByMode::Notify, trace: true });
    let mut timely = Link::ready(b"220 a\r\n250-a\r\n250-PIPELINING\r\n250 DELIVERBY 60\r\n");
    timely.client.begin(message, &[0], Terms { size: 777, by }, &mut timely.out);
    assert_eq!(timely.written(), "MAIL FROM:<a@b> BY=-7;NT\r\nRCPT TO:<c@d>\r\nDATA\r\n");
    let mut bare = Link::ready(b"220 a\r\n250-a\r\n250 PIPELINING\r\n");
    bare.client.begin(message, &[0], Terms { size: 777, by }, &mut bare.out);
    assert_eq!(bare.written(), "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n");
}
