//! Notices as they leave, word by word.

use super::*;
use crate::handle::{BufferId, ShardId};
use crate::protocol::wire::data::{Form, Scanner};
use crate::protocol::wire::reply::Enhanced;

/// One buffer per piece of a body.
#[derive(Default)]
struct Memory(Vec<Vec<u8>>);

impl Buffers for Memory {
    fn bytes(&self, extent: Extent) -> &[u8] {
        &self.0[extent.buffer.index as usize][extent.start as usize..][..extent.len as usize]
    }
    fn retain(&mut self, _: BufferId) {}
    fn release(&mut self, _: BufferId) {}
    fn append(&mut self, _: Extent, _: Extent) -> Option<Extent> {
        None
    }
    fn free(&self) -> usize {
        0
    }
    fn take(&mut self) -> Option<Extent> {
        None
    }
}

const HEAD: &[u8] = b"Received: from client.example ([127.0.0.1])\r\n\tby out1.example.net\r\n";
const BODY: &[u8] = b"Subject: hello\r\n\r\nfirst\r\n..second\r\n.\r\n";

/// A message in the making, and where its body lies.
struct Scene {
    message: Message,
    memory: Memory,
    replies: Vec<(u16, ReplyBuf, bool)>,
    returned_bytes_max: usize,
    times: Times,
}

impl Scene {
    /// From Alice, with these parameters.
    fn new(mail: &str, recipients: &[&str]) -> Scene {
        let mut message = Message { head: HEAD.to_vec(), ..Message::default() };
        message.id = MessageId { epoch_ms: 0x19A_0000_0000, shard: ShardId(1), number: 7 };
        message.envelope.set_sender(&Mail::parse(mail.as_bytes(), true).expect("a good MAIL"));
        let utf8 = message.envelope.mail().utf8;
        for recipient in recipients {
            let recipient = Recipient::parse(recipient.as_bytes(), true, utf8).expect("a good RCPT");
            message.envelope.push_recipient(&recipient);
        }
        let times =
            Times { now: 1_795_507_200, arrived: 1_795_507_100, tried: Some(1_795_507_199), until: None };
        let memory = Memory::default();
        Scene { message, memory, replies: Vec::new(), returned_bytes_max: 50 << 10, times }
            .body(BODY, Form::Stuffed)
    }

    fn body(mut self, body: &[u8], form: Form) -> Scene {
        self.memory.0.clear();
        self.message.body.clear();
        let mut scanner = Scanner::of(form);
        scanner.push(body);
        (self.message.shape, self.message.size) = (scanner.shape(), body.len() as u64);
        for (index, piece) in body.chunks(11).enumerate() {
            let buffer = BufferId { arena: ShardId(1), index: index as u32 };
            self.memory.0.push(piece.to_vec());
            self.message.body.push(Extent { buffer, start: 0, len: piece.len() as u32 });
        }
        self
    }

    fn said(mut self, recipient: u16, code: u16, enhanced: Enhanced, text: &str) -> Scene {
        self.replies.push((recipient, Reply::new(code, enhanced, text).to_buf(), true));
        self
    }

    fn ours(mut self, recipient: u16, code: u16, enhanced: Enhanced, text: &str) -> Scene {
        self.replies.push((recipient, Reply::new(code, enhanced, text).to_buf(), false));
        self
    }

    fn write(&self, kind: Kind) -> Option<Message> {
        let remote = Remote { name: "mta1", address: [10, 1, 0, 11].into() };
        let told: Vec<Told<'_>> = self
            .replies
            .iter()
            .map(|(recipient, reply, theirs)| Told {
                recipient: *recipient,
                reply,
                remote: theirs.then_some(remote),
            })
            .collect();
        let settings = Settings {
            hostname: "out1.example.net",
            from: "MAILER-DAEMON@out1.example.net",
            returned_bytes_max: self.returned_bytes_max,
        };
        let id = MessageId { number: 8, ..self.message.id };
        let mut out = Message { id, ..Message::default() };
        let original = Original::from(&self.message);
        write(&mut out, &original, kind, &told, &self.times, &settings, &self.memory).then_some(out)
    }

    fn text(&self, kind: Kind) -> String {
        let notice = self.write(kind).expect("somebody is to be told");
        assert!(notice.internal && notice.envelope.sender().is_empty() && notice.envelope.len() == 1);
        assert_eq!(notice.envelope.recipient(0).path, self.message.envelope.sender());
        let is_declared = notice.envelope.mail().body == BodyKind::EightBit;
        assert_eq!(is_declared, !notice.head.is_ascii());
        // As it goes by DATA it ends exactly where it should, and nothing in it stands bare.
        let mut scanner = Scanner::of(Form::Stuffed);
        assert_eq!(scanner.push(&notice.head), notice.head.len());
        assert!(scanner.is_ended() && !scanner.is_bare());
        String::from_utf8(notice.head).expect("UTF-8")
    }
}

const NOBODY: Enhanced = Enhanced(5, 1, 1);

#[test]
fn a_failure_word_by_word() {
    let text = Scene::new(
        "FROM:<alice@a.example> ENVID=QQ+2B31",
        &["TO:<bob@b.example> ORCPT=rfc822;b+2Bob@x.example"],
    )
    .said(0, 550, NOBODY, "no such user\nsee http://b.example/why")
    .text(Kind::Failed);
    let expected = "\
Date: Tue, 24 Nov 2026 08:00:00 +0000
From: Mail Delivery System <MAILER-DAEMON@out1.example.net>
To: <alice@a.example>
Subject: Undelivered mail returned to sender
Message-ID: <19A00000000.01.8@out1.example.net>
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary=\"=19A00000000.01.8=\"
Content-Transfer-Encoding: 7bit

--=19A00000000.01.8=
Content-Type: text/plain; charset=utf-8
Content-Description: Notification
Content-Transfer-Encoding: 7bit

This is the mail system at out1.example.net.

Your message could not be delivered to

  <bob@b.example>
      mta1 said: 550 5.1.1 no such user see http://b.example/why

It will not be tried again for the above. This does not concern other
recipients.

It came in on Tue, 24 Nov 2026 07:58:20 +0000 and has the id
19A00000000.01.7 here. Its header follows below.

--=19A00000000.01.8=
Content-Type: message/delivery-status
Content-Description: Delivery report
Content-Transfer-Encoding: 7bit

Reporting-MTA: dns; out1.example.net
Original-Envelope-Id: QQ+31
Arrival-Date: Tue, 24 Nov 2026 07:58:20 +0000

Original-Recipient: rfc822; b+ob@x.example
Final-Recipient: rfc822; bob@b.example
Action: failed
Status: 5.1.1
Remote-MTA: dns; [10.1.0.11] (mta1)
Diagnostic-Code: smtp; 550 5.1.1 no such user see http://b.example/why
Last-Attempt-Date: Tue, 24 Nov 2026 07:59:59 +0000
Final-Log-ID: 19A00000000.01.7

--=19A00000000.01.8=
Content-Type: text/rfc822-headers
Content-Description: Message header
Content-Transfer-Encoding: 7bit

Received: from client.example ([127.0.0.1])
\tby out1.example.net
Subject: hello

--=19A00000000.01.8=--
.
";
    assert_eq!(text, expected.replace('\n', "\r\n"));
}

/// What stands between the part's blank line and the next boundary.
fn part(text: &str, media_type: &str) -> String {
    let (_, rest) = text.split_once(&format!("Content-Type: {media_type}\r\n")).expect("such a part");
    let (_, content) = rest.split_once("\r\n\r\n").expect("a blank line");
    content.split_once("\r\n--=").expect("a boundary").0.to_owned()
}

#[test]
fn a_delay_says_until_when() {
    let mut scene = Scene::new(
        "FROM:<alice@a.example> RET=FULL",
        &["TO:<bob@b.example>", "TO:<carol@b.example> NOTIFY=FAILURE"],
    )
    .ours(0, 451, Enhanced(4, 4, 0), "upstream said: 450 4.2.1 mailbox busy")
    .ours(1, 451, Enhanced(4, 4, 1), "no upstream could be reached");
    scene.times.until = Some(1_795_510_800);
    let text = scene.text(Kind::Delayed);
    assert!(text.contains("\r\nSubject: Your mail is delayed\r\n"));
    let human = part(&text, "text/plain; charset=utf-8");
    assert!(human.contains("has not been delivered yet to\r\n\r\n  <bob@b.example>\r\n"), "{human}");
    assert!(human.contains("the next mail system said: 450 4.2.1 mailbox busy\r\n"), "{human}");
    assert!(
        human.contains("It will be tried again until Tue, 24 Nov 2026 09:00:00 +0000. You need"),
        "{human}"
    );
    // Carol's sender asked for failures alone; and a delay returns the header, RET=FULL or not.
    assert!(!text.contains("carol") && !text.contains("first"));
    let status = part(&text, "message/delivery-status");
    let (_, recipient) = status.split_once("\r\n\r\n").expect("fields of a recipient");
    let expected = "Final-Recipient: rfc822; bob@b.example\r\n\
        Action: delayed\r\n\
        Status: 4.2.1\r\n\
        Diagnostic-Code: smtp; 450 4.2.1 mailbox busy\r\n\
        Last-Attempt-Date: Tue, 24 Nov 2026 07:59:59 +0000\r\n\
        Final-Log-ID: 19A00000000.01.7\r\n\
        Will-Retry-Until: Tue, 24 Nov 2026 09:00:00 +0000\r\n";
    assert_eq!(recipient, expected);
}

#[test]
fn kinds_have_their_action_and_status() {
    let later = |kind| {
        let scene =
            Scene::new("FROM:<alice@a.example>", &["TO:<bob@b.example> NOTIFY=SUCCESS,FAILURE,DELAY"]);
        let text = scene.ours(0, 451, Enhanced(4, 4, 1), "no upstream could be reached").text(kind);
        part(&text, "message/delivery-status")
    };
    for (kind, fields) in [
        (
            Kind::Failed,
            "Action: failed\r\nStatus: 4.4.1\r\nDiagnostic-Code: x-postlane; 451 4.4.1 no upstream",
        ),
        (Kind::Expired, "Action: failed\r\nStatus: 4.4.7\r\n"),
        (Kind::Overdue, "Action: failed\r\nStatus: 5.4.7\r\n"),
        (Kind::Delayed, "Action: delayed\r\nStatus: 4.4.1\r\n"),
    ] {
        let status = later(kind);
        assert!(status.contains(fields), "{kind:?}: {status}");
        assert!(!status.contains("Will-Retry-Until") && !status.contains("Remote-MTA"));
    }
    for (kind, action) in [(Kind::Relayed, "relayed"), (Kind::Delivered, "delivered")] {
        let scene = Scene::new("FROM:<alice@a.example>", &["TO:<bob@b.example> NOTIFY=SUCCESS"]);
        let text = scene.said(0, 250, Enhanced(2, 0, 0), "ok").text(kind);
        let fields = format!(
            "Action: {action}\r\nStatus: 2.0.0\r\nRemote-MTA: dns; [10.1.0.11] (mta1)\r\nDiagnostic-Code: smtp; 250 2.0.0 ok\r\n"
        );
        assert!(part(&text, "message/delivery-status").contains(&fields), "{text}");
    }
}

/// RFC 2852 and RFC 4865 have fields of their own, and what is overdue is said in words.
#[test]
fn what_was_asked_of_time_is_in_the_report() {
    let report = |mail: &str, kind| {
        let scene = Scene::new(&format!("FROM:<alice@a.example>{mail}"), &["TO:<bob@b.example>"]);
        scene.ours(0, 554, Enhanced(5, 4, 7), "not delivered in time").text(kind)
    };
    let arrival = "Arrival-Date: Tue, 24 Nov 2026 07:58:20 +0000\r\n";
    for (mail, fields) in [
        (" BY=60;R", "Deliver-By-Date: Tue, 24 Nov 2026 07:59:20 +0000\r\n"),
        (" BY=-20;N", "Deliver-By-Date: Tue, 24 Nov 2026 07:58:00 +0000\r\n"),
        (" HOLDFOR=90", "Future-Release-Request: for;90\r\n"),
        (" HOLDUNTIL=2026-11-24T10:00:00+01:00", "Future-Release-Request: until;2026-11-24T09:00:00Z\r\n"),
        ("", "\r\nFinal-Recipient"),
    ] {
        let text = report(mail, Kind::Overdue);
        let status = part(&text, "message/delivery-status");
        assert!(status.contains(&format!("{arrival}{fields}")), "{mail}: {status}");
        assert!(status.contains("Action: failed\r\nStatus: 5.4.7\r\n"), "{status}");
        assert!(text.contains("for as long as the sender gave it"), "{text}");
    }
    assert!(report(" BY=60;N", Kind::Relayed).contains("You gave it a time"));
}

#[test]
fn nobody_is_told_who_does_not_want_to_be() {
    const KINDS: [Kind; 6] =
        [Kind::Failed, Kind::Expired, Kind::Overdue, Kind::Delayed, Kind::Relayed, Kind::Delivered];
    let told = |mail: &str, notify: &str| {
        let scene = Scene::new(&format!("FROM:{mail}"), &[&format!("TO:<bob@b.example>{notify}")]);
        let scene = scene.said(0, 550, NOBODY, "no such user");
        KINDS.map(|kind| scene.write(kind).is_some())
    };
    assert_eq!(told("<alice@a.example>", ""), [true, true, true, true, false, false]);
    assert_eq!(told("<alice@a.example>", " NOTIFY=NEVER"), [false; 6]);
    assert_eq!(told("<alice@a.example>", " NOTIFY=FAILURE"), [true, true, true, false, false, false]);
    assert_eq!(told("<alice@a.example>", " NOTIFY=DELAY"), [false, false, false, true, false, false]);
    assert_eq!(told("<alice@a.example>", " NOTIFY=SUCCESS"), [false, false, false, false, true, true]);
    assert_eq!(told("<>", " NOTIFY=SUCCESS,FAILURE,DELAY"), [false; 6]);
    // Who gives a time hears also that it was handed on.
    let timed = "<alice@a.example> BY=60;N";
    assert_eq!(told(timed, ""), [true, true, true, true, true, false]);
    assert_eq!(told(timed, " NOTIFY=FAILURE"), [true, true, true, false, true, false]);
    assert_eq!(told(timed, " NOTIFY=NEVER"), [false; 6]);
    // Nor is anything made of a notice, whoever it may be from.
    let mut scene = Scene::new("FROM:<alice@a.example>", &["TO:<bob@b.example>"]).said(0, 550, NOBODY, "no");
    scene.message.internal = true;
    assert!(KINDS.iter().all(|kind| scene.write(*kind).is_none()));
}

#[test]
fn the_whole_message_comes_back_as_it_came() {
    for (form, body) in [(Form::Stuffed, BODY), (Form::Plain, b"Subject: hello\r\n\r\nfirst\r\n.second\r\n")]
    {
        let scene = Scene::new("FROM:<alice@a.example> RET=FULL", &["TO:<bob@b.example>"]).body(body, form);
        let mut scene = scene.said(0, 550, NOBODY, "no such user");
        let text = scene.text(Kind::Failed);
        let returned = part(&text, "message/rfc822");
        let head = String::from_utf8_lossy(HEAD);
        assert_eq!(returned, format!("{head}Subject: hello\r\n\r\nfirst\r\n..second\r\n"), "{form:?}");
        assert!(text.contains("It\r\nfollows below.") || text.contains("It follows below."), "{text}");
        // Beyond the bound its header has to do.
        scene.returned_bytes_max = scene.message.size as usize;
        let returned = part(&scene.text(Kind::Failed), "text/rfc822-headers");
        assert_eq!(returned, format!("{head}Subject: hello\r\n"), "{form:?}");
    }
    // One without a line's end gets none.
    let scene = Scene::new("FROM:<alice@a.example> RET=FULL", &["TO:<bob@b.example>"]);
    let scene = scene.body(b"Subject: x\r\n\r\nno end", Form::Plain).said(0, 550, NOBODY, "no");
    assert!(part(&scene.text(Kind::Failed), "message/rfc822").ends_with("\r\n\r\nno end"));
    // A header without an end is all there is.
    let scene = Scene::new("FROM:<alice@a.example>", &["TO:<bob@b.example>"]);
    let scene = scene.body(b"Subject: x\r\n.\r\n", Form::Stuffed).said(0, 550, NOBODY, "no");
    assert!(part(&scene.text(Kind::Failed), "text/rfc822-headers").ends_with("\r\nSubject: x\r\n"));
    // One that never ends is cut at a line's end.
    let long = ["X-Long: ".as_bytes(), &b"x".repeat(60), b"\r\n"].concat().repeat(1000);
    let scene = Scene::new("FROM:<alice@a.example>", &["TO:<bob@b.example>"]);
    let scene = scene.body(&long, Form::Plain).said(0, 550, NOBODY, "no");
    let returned = part(&scene.text(Kind::Failed), "text/rfc822-headers");
    assert!(returned.ends_with("x\r\n") && returned.len() <= 16 << 10 && returned.len() > 15 << 10);
}

#[test]
fn nothing_binary_is_returned() {
    let header_of = |body: &[u8]| {
        let scene = Scene::new("FROM:<alice@a.example> RET=FULL BODY=BINARYMIME", &["TO:<bob@b.example>"]);
        let scene = scene.body(body, Form::Plain).said(0, 550, NOBODY, "no");
        part(&scene.text(Kind::Failed), "text/rfc822-headers")
    };
    let head = std::str::from_utf8(HEAD).expect("a head is text");
    assert_eq!(header_of(b"Subject: x\r\n\r\na\nb\0"), format!("{head}Subject: x\r\n"));
    // Not even a header that could end the notice early.
    for body in [&b"Subject: x\n.\nMAIL\r\n\r\n"[..], b"Subject: x\r\r\n\r\n", b"Subject:\0x\r\n\r\n"] {
        assert_eq!(header_of(body), "");
    }
}

#[test]
fn a_boundary_is_not_in_what_it_bounds() {
    let body = b"Subject: x\r\n\r\n--=19A00000000.01.8=\r\n--=19A00000000.01.8==\r\n";
    let scene = Scene::new("FROM:<alice@a.example> RET=FULL", &["TO:<bob@b.example>"]);
    let text = scene.body(body, Form::Plain).said(0, 550, NOBODY, "no").text(Kind::Failed);
    assert!(text.contains("\tboundary=\"=19A00000000.01.8===\"\r\n"));
    assert_eq!(text.matches("\r\n--=19A00000000.01.8===").count(), 4);
}

#[test]
fn utf8_addresses() {
    let scene = Scene::new(
        "FROM:<ä@a.example> SMTPUTF8 BODY=8BITMIME",
        &["TO:<ö@b.example> ORCPT=utf-8;was-\\x{F6}@b.example", "TO:<bob@b.example> ORCPT=utf-8;ü@b.example"],
    );
    let scene = scene.body("Subject: äöü\r\n\r\nß\r\n.\r\n".as_bytes(), Form::Stuffed);
    let scene = scene.said(0, 550, NOBODY, "kein Empfänger").said(1, 550, NOBODY, "no");
    let notice = scene.write(Kind::Failed).expect("somebody is to be told");
    assert!(notice.envelope.mail().utf8, "its recipient needs SMTPUTF8");
    let text = scene.text(Kind::Failed);
    assert!(
        text.contains("\r\nTo: <ä@a.example>\r\n")
            && text.contains("\r\nContent-Transfer-Encoding: 8bit\r\n\r\n")
    );
    let status = part(&text, "message/global-delivery-status");
    assert!(
        status.contains(
            "\r\nOriginal-Recipient: utf-8; was-ö@b.example\r\nFinal-Recipient: utf-8; ö@b.example\r\n"
        ),
        "{status}"
    );
    assert!(status.contains("\r\nDiagnostic-Code: smtp; 550 5.1.1 kein Empfänger\r\n"), "{status}");
    assert!(
        status.contains(
            "\r\nOriginal-Recipient: utf-8; ü@b.example\r\nFinal-Recipient: rfc822; bob@b.example\r\n"
        ),
        "{status}"
    );
    assert!(part(&text, "message/global-headers").ends_with("\r\nSubject: äöü\r\n"));
}

#[test]
fn words_in_utf8_do_not_make_the_machines_part_so() {
    let scene = Scene::new("FROM:<alice@a.example>", &["TO:<bob@b.example>"]);
    let text = scene.said(0, 550, NOBODY, "kein Empfänger").text(Kind::Failed);
    assert!(part(&text, "text/plain; charset=utf-8").contains("kein Empfänger"));
    assert!(part(&text, "message/delivery-status").contains("550 5.1.1 kein Empf?nger\r\n"));
}

#[test]
fn where_nobody_takes_8_bit_the_notice_has_none() {
    let scene =
        Scene::new("FROM:<alice@a.example> SMTPUTF8 RET=FULL", &["TO:<ö@b.example> ORCPT=utf-8;ö@b.example"]);
    let scene = scene.body("Subject: äöü\r\n\r\nß\r\n.\r\n".as_bytes(), Form::Stuffed);
    let scene = scene.ours(0, 554, Enhanced(5, 6, 7), "no upstream takes internationalised addresses");
    let notice = scene.write(Kind::Failed).expect("somebody is to be told");
    let mail = notice.envelope.mail();
    assert!(!mail.utf8 && mail.body == BodyKind::SevenBit && notice.head.is_ascii());
    let status = part(&scene.text(Kind::Failed), "message/delivery-status");
    assert!(
        status.contains(
            "Original-Recipient: utf-8; \\x{F6}@b.example\r\nFinal-Recipient: utf-8; \\x{F6}@b.example\r\n"
        ),
        "{status}"
    );
    assert!(part(&scene.text(Kind::Failed), "text/rfc822-headers").ends_with("\r\nSubject: ??????\r\n"));
}

#[test]
fn nothing_slips_into_a_field() {
    let scene = Scene::new(
        "FROM:<alice@a.example> ENVID=x+0D+0AAction:+20delivered",
        &["TO:<bob@b.example> ORCPT=rfc822;a+0D+0A+0D+0Ab+E4@x.example"],
    );
    let text = scene.said(0, 550, NOBODY, "no\r\x00\x1b such\nAction: delivered").text(Kind::Failed);
    let status = part(&text, "message/delivery-status");
    assert!(status.contains("\r\nOriginal-Envelope-Id: x+0D+0AAction: delivered\r\n"), "{status}");
    assert!(status.contains("\r\nOriginal-Recipient: rfc822; a+0D+0A+0D+0Ab+E4@x.example\r\n"), "{status}");
    assert!(
        status.contains("\r\nDiagnostic-Code: smtp; 550 5.1.1 no??? such Action: delivered\r\n"),
        "{status}"
    );
    assert_eq!(status.matches("\r\nAction:").count(), 1);
}

#[test]
fn long_words_are_folded_and_bounded() {
    let scene = Scene::new("FROM:<alice@a.example>", &["TO:<bob@b.example>"]);
    let text = scene.said(0, 550, NOBODY, &"go away ".repeat(100)).text(Kind::Failed);
    assert!(text.lines().all(|line| line.len() <= 78), "{text}");
    let status = part(&text, "message/delivery-status").replace("\r\n ", " ");
    let line = status.lines().find(|line| line.starts_with("Diagnostic-Code")).expect("that field");
    assert!(line.ends_with(" go away ...") && line.len() < 450, "{line}");
    // A line of dots alone would end the message.
    let scene = Scene::new("FROM:<alice@a.example>", &["TO:<bob@b.example>"]);
    scene.said(0, 550, NOBODY, &". ".repeat(100)).text(Kind::Failed);
}
