//! The rules of a session, by table.

use super::{GO, OK, Session, options};
use crate::protocol::server::{Event, FutureRelease, Options, Server, Violation};

/// What is said to these lines after EHLO, without the reply to that.
fn said(lines: &str) -> Vec<String> {
    said_after("EHLO c\r\n", lines)
}

fn said_after(hello: &str, lines: &str) -> Vec<String> {
    let mut session = Session::default();
    session.feed(hello.as_bytes(), &options());
    session.out.clear();
    session.feed(lines.as_bytes(), &options());
    session.said()
}

/// FUTURERELEASE and DELIVERBY are parameters like others where they are offered, and unknown where they are not.
#[test]
fn time_is_asked_for_only_where_it_is_offered() {
    let future_release = Some(FutureRelease { seconds_max: 3600, unix_now: 1_795_507_200 });
    let offering = Options { future_release, deliver_by: true, ..options() };
    let said = |line: &str, options: &Options| {
        let mut session = Session::default();
        session.feed(b"EHLO c\r\n", options);
        let hello = String::from_utf8(std::mem::take(&mut session.out)).expect("text");
        session.feed(format!("MAIL FROM:<a@b> {line}\r\n").as_bytes(), options);
        let [said] = session.said().try_into().expect("one answer");
        (hello, said, session.events.pop().expect("an event"))
    };
    let (hello, ..) = said("", &options());
    assert!(!hello.contains("FUTURERELEASE") && !hello.contains("DELIVERBY"), "{hello}");
    let (hello, ..) = said("", &offering);
    assert!(
        hello.contains("\r\n250-FUTURERELEASE 3600 2026-11-24T09:00:00Z\r\n250-DELIVERBY\r\n"),
        "{hello}"
    );
    for (line, code) in [
        ("HOLDFOR=3600", "250 2.1.5"),
        ("HOLDFOR=3601", "501 5.5.4"),
        ("HOLDUNTIL=2026-11-24T10:00:00+01:00", "250 2.1.5"),
        ("HOLDUNTIL=2026-11-24T09:00:01Z", "501 5.5.4"),
        ("HOLDUNTIL=2000-01-01T00:00:00Z", "250 2.1.5"),
        ("BY=120;R", "250 2.1.5"),
        ("HOLDFOR=60 BY=120;NT", "250 2.1.5"),
        ("HOLDFOR=120 BY=120;N", "250 2.1.5"),
        ("HOLDFOR=119 BY=120;R", "250 2.1.5"),
        ("HOLDFOR=120 BY=120;R", "501 5.5.4"),
        ("HOLDUNTIL=2026-11-24T08:02:00Z BY=120;R", "501 5.5.4"),
    ] {
        assert_eq!(said(line, &offering).1, code, "{line}");
        assert_eq!(said(line, &options()).1, "555 5.5.4", "{line}");
    }
    let (.., event) = said("HOLDFOR=60 BY=120;NT", &offering);
    assert!(
        event.contains("For(60)") && event.contains("seconds: 120") && event.contains("Notify"),
        "{event}"
    );
}

#[test]
fn greeting_and_hello() {
    let mut session = Session::default();
    session.server.greet(&options(), &mut session.out);
    assert_eq!(session.out, b"220 mx.example ESMTP Postlane\r\n");
    session.out.clear();
    session.feed(b"EHLO [127.0.0.1]\r\n", &options());
    let text = String::from_utf8(session.out.clone()).expect("text");
    let mut lines: Vec<_> = text.split_terminator("\r\n").collect();
    assert_eq!(lines.remove(0), "250-mx.example");
    assert!(lines.pop().is_some_and(|line| line.starts_with("250 ")), "the last line has no dash");
    for offer in ["PIPELINING", "SIZE 1000", "8BITMIME", "CHUNKING", "SMTPUTF8", "DSN"] {
        assert!(lines.contains(&format!("250-{offer}").as_str()), "{offer}");
    }
    assert!(text.contains("ENHANCEDSTATUSCODES"));
    assert!(session.server.extended());
    session.out.clear();
    session.feed(b"HELO my pc\r\n", &options());
    assert_eq!(session.out, b"250 mx.example\r\n");
    assert!(!session.server.extended());
    assert_eq!(session.events, ["hello [127.0.0.1] true", "hello my pc false"]);
}

#[test]
fn commands_one_by_one() {
    for (lines, replies) in [
        ("NOOP\r\n", "250 2.0.0"),
        ("NOOP what ever\r\n", "250 2.0.0"),
        ("noop\r\n", "250 2.0.0"),
        ("RSET\r\n", "250 2.0.0"),
        ("RSET x\r\n", "501 5.5.4"),
        ("VRFY a\r\n", "252 2.5.0"),
        ("EXPN a\r\n", "502 5.5.1"),
        ("HELP\r\n", "214 2.0.0"),
        ("QUIT\r\n", "221 2.0.0"),
        ("QUIT now\r\n", "501 5.5.4"),
        ("STARTTLS\r\n", "502 5.5.1"),
        ("AUTH PLAIN x\r\n", "502 5.5.1"),
        ("ETRN x\r\n", "502 5.5.1"),
        ("TURN\r\n", "502 5.5.1"),
        ("HELLO\r\n", "500 5.5.2"),
        ("\r\n", "500 5.5.2"),
        ("\u{e9}\u{1}\r\n", "500 5.5.2"),
        ("EHLO\r\n", "501 5.5.4"),
        ("HELO \r\n", "501 5.5.4"),
        ("EHLO a\u{1}b\r\n", "501 5.5.4"),
        ("DATA\r\n", "503 5.5.1"),
        ("RCPT TO:<a@b>\r\n", "503 5.5.1"),
    ] {
        assert_eq!(said(lines).join(", "), replies, "{lines:?}");
    }
}

#[test]
fn transactions() {
    for (lines, replies) in [
        ("MAIL FROM:<>\r\n", "250 2.1.5"),
        ("mail from: <a@b>\r\n", "250 2.1.5"),
        ("MAIL FROM:a@b\r\n", "501 5.1.7"),
        ("MAIL a@b\r\n", "501 5.5.4"),
        ("MAIL FROM:<a@b> X=1\r\n", "555 5.5.4"),
        ("MAIL FROM:<a@b> SIZE=x\r\n", "501 5.5.4"),
        ("MAIL FROM:<a@b> SIZE=1000\r\n", "250 2.1.5"),
        ("MAIL FROM:<a@b> SIZE=1001\r\n", "552 5.3.4"),
        ("MAIL FROM:<é@b>\r\n", "553 5.6.7"),
        ("MAIL FROM:<é@b> SMTPUTF8\r\n", "250 2.1.5"),
        ("MAIL FROM:<no@b>\r\nRCPT TO:<a@b>\r\n", "550 5.1.1, 503 5.5.1"),
        ("MAIL FROM:<a@b>\r\nMAIL FROM:<a@b>\r\n", "250 2.1.5, 503 5.5.1"),
        ("MAIL FROM:<a@b>\r\nRSET\r\nMAIL FROM:<a@b>\r\n", "250 2.1.5, 250 2.0.0, 250 2.1.5"),
        ("MAIL FROM:<>\r\nRCPT TO:a\r\n", "250 2.1.5, 501 5.1.3"),
        ("MAIL FROM:<>\r\nRCPT a\r\n", "250 2.1.5, 501 5.5.4"),
        ("MAIL FROM:<>\r\nRCPT TO:<>\r\n", "250 2.1.5, 501 5.1.3"),
        ("MAIL FROM:<>\r\nRCPT TO:<é@b>\r\n", "250 2.1.5, 553 5.6.7"),
        ("MAIL FROM:<> SMTPUTF8\r\nRCPT TO:<é@b>\r\n", "250 2.1.5, 250 2.1.5"),
        (
            "MAIL FROM:<> SMTPUTF8\r\nRSET\r\nMAIL FROM:<>\r\nRCPT TO:<é@b>\r\n",
            "250 2.1.5, 250 2.0.0, 250 2.1.5, 553 5.6.7",
        ),
        ("MAIL FROM:<>\r\nRCPT TO:<a@b> SIZE=1\r\n", "250 2.1.5, 555 5.5.4"),
        ("MAIL FROM:<>\r\nRCPT TO: <postmaster>\r\n", "250 2.1.5, 250 2.1.5"),
        ("MAIL FROM:<>\r\nDATA\r\n", "250 2.1.5, 503 5.5.1"),
        ("MAIL FROM:<>\r\nRCPT TO:<no@b>\r\nDATA\r\n", "250 2.1.5, 550 5.1.1, 503 5.5.1"),
        ("MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA x\r\n", "250 2.1.5, 250 2.1.5, 501 5.5.4"),
        ("MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nEHLO x\r\nDATA\r\n", "250 2.1.5, 250 2.1.5, 250, 503 5.5.1"),
        (
            "MAIL FROM:<late@b>\r\nRCPT TO:<a@b>\r\nDATA\r\nRSET\r\n",
            "250 2.1.5, 250 2.1.5, 550 5.1.1, 250 2.0.0",
        ),
        ("NOOP\n", "554 5.6.0"),
        ("NOOP\nNOOP\r\n", "554 5.6.0"),
        ("NO\rOP\r\nNOOP\r\n", "554 5.6.0, 250 2.0.0"),
        ("NOOP\r\r\nNOOP\r\n", "554 5.6.0, 250 2.0.0"),
        ("NOOP \0\r\nNOOP\r\n", "554 5.6.0, 250 2.0.0"),
    ] {
        assert_eq!(said(lines).join(", "), replies, "{lines:?}");
    }
}

#[test]
fn before_and_after_helo() {
    assert_eq!(said_after("", "MAIL FROM:<>\r\nDATA\r\nNOOP\r\n"), ["503 5.5.1", "503 5.5.1", "250 2.0.0"]);
    let helo = "HELO c\r\n";
    assert_eq!(said_after(helo, "MAIL FROM:<> SIZE=1\r\n"), ["555 5.5.4"]);
    assert_eq!(
        said_after(helo, "MAIL FROM:<>\r\nRCPT TO:<a@b> NOTIFY=NEVER\r\n"),
        ["250 2.1.5", "555 5.5.4"]
    );
}

#[test]
fn recipients_have_a_bound() {
    let rcpt = "RCPT TO:<a@b>\r\n";
    let refused = "RCPT TO:<no@b>\r\n";
    let lines = format!("MAIL FROM:<>\r\n{rcpt}{refused}{rcpt}{rcpt}{rcpt}RSET\r\nMAIL FROM:<>\r\n{rcpt}");
    let replies = said(&lines).join(", ");
    assert_eq!(
        replies,
        "250 2.1.5, 250 2.1.5, 550 5.1.1, 250 2.1.5, 250 2.1.5, 452 4.5.3, 250 2.0.0, 250 2.1.5, 250 2.1.5"
    );
}

#[test]
fn lines_have_a_bound() {
    let noop = |len: usize| format!("NOOP {}\r\n", "x".repeat(len - 7));
    let mail = |len: usize| format!("MAIL FROM:<a@b>{}\r\n", " ".repeat(len - 17));
    let rcpt = |len: usize| format!("MAIL FROM:<>\r\nRCPT TO:<a@b>{}\r\n", " ".repeat(len - 15));
    for (lines, replies) in [
        (noop(512), "250 2.0.0"),
        (noop(513), "500 5.5.2"),
        (mail(723), "250 2.1.5"),
        (mail(724), "500 5.5.2"),
        (rcpt(1012), "250 2.1.5, 250 2.1.5"),
        (rcpt(1013), "250 2.1.5, 500 5.5.2"),
        (noop(100_000) + "NOOP\r\n", "500 5.5.2, 250 2.0.0"),
    ] {
        assert_eq!(said(&lines).join(", "), replies);
        let mut split = Session::default();
        split.feed(b"EHLO c\r\n", &options());
        split.out.clear();
        lines.as_bytes().chunks(7).for_each(|piece| split.feed(piece, &options()));
        assert_eq!(split.said().join(", "), replies, "in pieces");
    }
}

#[test]
fn too_many_faults() {
    let options = Options { faults_max: 2, ..options() };
    let mut session = Session::default();
    session.feed(b"X\r\nNOOP\r\nX\r\nX\r\nNOOP\r\n", &options);
    assert_eq!(session.said(), ["500 5.5.2", "250 2.0.0", "500 5.5.2", "421 4.7.0"]);
    assert_eq!(session.events, ["Hangup"]);
    let mut forgiven = Session::default();
    let message = "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n.\r\n";
    forgiven.feed(format!("EHLO c\r\nX\r\nX\r\n{message}X\r\nX\r\n{message}").as_bytes(), &options);
    assert_eq!(forgiven.taken.len(), 2, "a message taken clears the count");
}

#[test]
fn nothing_is_heard_after_quit() {
    let mut session = Session::default();
    session.feed(b"QUIT\r\nNOOP\r\n", &options());
    session.feed(b"NOOP\r\n", &options());
    assert_eq!(session.said(), ["221 2.0.0"]);
    assert_eq!(session.events, ["Quit"]);
}

const UP_TO_DATA: &[u8] = b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n";

#[test]
fn messages() {
    let x1000 = "x".repeat(998) + "\r\n";
    for (message, end) in [
        (".\r\n", "End(Ok(3))"),
        ("a\r\n.\r\n", "End(Ok(6))"),
        ("..\r\n.a\r\n.\r\n", "End(Ok(11))"),
        ("a\r\n.\r\r\n.\r\n", "End(Err(BareNewline))"),
        ("a\n.\n\r\n.\r\n", "End(Err(BareNewline))"),
        ("a\r.\r\n.\r\n", "End(Err(BareNewline))"),
        ("a\r\n.\nb\r\n.\r\n", "End(Err(BareNewline))"),
        ("a\n.\r\nMAIL FROM:<x@y>\r\n.\r\n", "End(Err(BareNewline))"),
        ("a\0b\r\n.\r\n", "End(Err(BareNewline))"),
        (&format!("{x1000}.\r\n"), "End(Ok(1003))"),
        (&format!(".{x1000}.\r\n"), "End(Ok(1004))"),
        (&format!("y{x1000}.\r\n"), "End(Err(TooBig))"),
        (&format!("{x1000}{x1000}\n\r\n.\r\n"), "End(Err(BareNewline))"),
    ] {
        let mut session = Session::default();
        session.feed(UP_TO_DATA, &options());
        assert!(session.server.in_data());
        session.feed([message, "NOOP\r\n"].concat().as_bytes(), &options());
        assert!(!session.server.in_data());
        assert_eq!(session.events.last().map(String::as_str), Some(end), "{message:?}");
        assert_eq!(session.said().last().map(String::as_str), Some("250 2.0.0"), "{message:?}");
        match end.contains("Ok") {
            true => assert_eq!(session.taken[0].1, message.as_bytes()),
            false => assert!(session.taken.is_empty()),
        }
    }
    assert_eq!(Violation::BareNewline.reply().code, 554);
    assert_eq!(Violation::TooBig.reply().code, 552);
}

#[test]
fn the_body_is_lent_where_it_lies() {
    let mut server = Server::default();
    let mut out = Vec::new();
    let options = options();
    for _ in 0..4 {
        // Each piece of the same buffer up to the next event, as a shard would.
        let input = b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nabc\r\n.\r\nRSET\r\n";
        let mut at = 0;
        let mut seen = Vec::new();
        loop {
            let (taken, event) = server.receive(&input[at..], &options, &mut out);
            let start = at;
            at += taken;
            match event {
                None => break,
                Some(Event::Body(range)) => seen.push(&input[start..][range]),
                Some(Event::Data) => server.answer(GO, &mut out),
                Some(Event::Mail(_) | Event::Recipient(_) | Event::End(_)) => server.answer(OK, &mut out),
                Some(_) => {}
            }
        }
        assert_eq!(at, input.len());
        assert_eq!(seen, [b"abc\r\n.\r\n"]);
    }
}

/// The next transaction may begin before the last one's message is answered, and the answer still counts.
#[test]
fn an_end_may_be_answered_later() {
    let mut server = Server::default();
    let mut out = Vec::new();
    let options = Options { faults_max: 1, ..options() };
    let input = b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nBDAT 1 LAST\r\nx\
        MAIL FROM:<>\r\nNONSENSE\r\nRCPT TO:<a@b>\r\nDATA\r\ny\r\n.\r\nNOOP\r\nNONSENSE\r\n";
    let (mut at, mut ends) = (0, 0);
    loop {
        let (taken, event) = server.receive(&input[at..], &options, &mut out);
        at += taken;
        match event {
            None => break,
            Some(Event::Data) => server.answer(GO, &mut out),
            Some(Event::Mail(_) | Event::Recipient(_)) => server.answer(OK, &mut out),
            Some(Event::End(end)) => {
                assert_eq!(end, Ok([1, 6][ends]));
                server.postpone();
                ends += 1;
                if ends == 2 {
                    out.clear();
                    // A message taken: faults before it are forgiven.
                    server.answer_late(OK, &mut out);
                }
            }
            Some(Event::Hangup) => panic!("one fault only"),
            Some(_) => {}
        }
    }
    assert_eq!((at, ends), (input.len(), 2));
    let text = String::from_utf8(out).expect("replies are text");
    let codes: Vec<&str> = text.lines().map(|line| &line[..3]).collect();
    assert_eq!(codes, ["250", "250", "500"]);
}

#[test]
fn a_session_is_small() {
    assert!(size_of::<Server>() <= 160, "{}", size_of::<Server>());
}
