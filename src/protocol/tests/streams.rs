//! Any bytes, in any pieces: no panic, and the pieces do not matter.

use proptest::prelude::*;

use super::{Session, options};
use crate::protocol::client::{Client, Event};
use crate::protocol::{Envelope, Mail, MailParameters, Recipient};

/// Pieces of `input`, their sizes by `cuts` in turn.
pub(super) fn pieces<'a>(mut input: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut found = Vec::new();
    for &cut in cuts.iter().cycle().take(if cuts.is_empty() { 0 } else { input.len() }) {
        let (piece, rest) = input.split_at(cut.min(input.len()));
        found.push(piece);
        input = rest;
    }
    found.push(input);
    found
}

fn downstream() -> impl Strategy<Value = Vec<u8>> {
    let fragments: Vec<&'static [u8]> = vec![
        b"EHLO c\r\n",
        b"HELO c\r\n",
        b"MAIL FROM:<a@b>\r\n",
        b"MAIL FROM:<no@b> SIZE=9\r\n",
        b"MAIL FROM:<late@b>\r\n",
        b"RCPT TO:<c@d>\r\n",
        b"RCPT TO:<no@d>\r\n",
        b"RCPT TO:<e@f> NOTIFY=NEVER ORCPT=x;y\r\n",
        b"DATA\r\n",
        b"BDAT 4\r\n",
        b"BDAT 7 LAST\r\n",
        b"BDAT 0 LAST\r\n",
        b"BDAT 2000 last\r\n",
        b"BDAT x\r\n",
        b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 6\r\n",
        b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 5 LAST\r\n.a\r\n.",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"X\r\n",
        b"\r\n.\r\n",
        b".\r\n",
        b"\r\n",
        b"\r",
        b"\n",
        b".",
        b"\0",
        b"text",
        b"MAIL FROM:<",
        b" ",
        b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n",
        b"a\r\n..b\r\n.\r\n",
    ];
    let fragment = prop_oneof![
        20 => prop::sample::select(fragments).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..20),
        1 => (0usize..1200).prop_map(|len| vec![b'x'; len]),
    ];
    prop::collection::vec(fragment, 0..40).prop_map(|fragments| fragments.concat())
}

fn upstream() -> impl Strategy<Value = Vec<u8>> {
    let fragments: Vec<&'static [u8]> = vec![
        b"220 hi\r\n",
        b"250 ok\r\n",
        b"250-a\r\n",
        b"250-PIPELINING\r\n",
        b"250 SIZE 9\r\n",
        b"250 2.1.0 x\n",
        b"250-2.1.0 x\r\n250 2.1.0 y\r\n",
        b"354 go\r\n",
        b"354\r\n",
        b"450 4.2.0 no\r\n",
        b"550 no\r\n",
        b"550-no\r\n550 way\r\n",
        b"421 bye\r\n",
        b"junk",
        b"\r\n",
        b"\r",
        b"2",
        b"250",
        b" ",
        b"220 hi\r\n250-a\r\n250 PIPELINING\r\n",
        b"220 hi\r\n250 a\r\n",
        b"250 a\r\n250 b\r\n250 c\r\n354 d\r\n",
    ];
    let fragment = prop_oneof![
        20 => prop::sample::select(fragments).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..20),
        1 => (0usize..5000).prop_map(|len| vec![b'x'; len]),
    ];
    let greetings = prop::sample::select(vec![
        &b""[..],
        b"220 hi\r\n250-a\r\n250 PIPELINING\r\n",
        b"220 hi\r\n250 a\r\n",
    ]);
    (greetings, prop::collection::vec(fragment, 0..40))
        .prop_map(|(greetings, fragments)| [greetings, &fragments.concat()].concat())
}

/// What a client hears and says, driven by rule: it begins whenever it can, breaks off after a refused sender,
/// and quits after `transactions_max`.
fn link(pieces: &[&[u8]], transactions_max: u32) -> (Vec<String>, Vec<u8>) {
    let mut envelope = Envelope::default();
    envelope.set_sender(&Mail { path: b"a@b", parameters: MailParameters::default() });
    for path in [&b"c@d"[..], b"e@f"] {
        envelope.push_recipient(&Recipient { path, notify: None, orcpt: None });
    }
    let (mut client, mut out, mut events) = (Client::new(), Vec::new(), Vec::new());
    let (mut begun, mut accepted) = (0, 0);
    for piece in pieces {
        let mut at = 0;
        loop {
            let (taken, event) = client.receive(&piece[at..], "us", &mut out);
            at += taken;
            let Some(event) = event else { break };
            events.push(format!("{event:?}"));
            match event {
                Event::Mail(reply) => {
                    let is_refused = !reply.is_positive();
                    if !(is_refused && client.break_off()) {
                        client.advance(&envelope, &[0, 1], &mut out);
                    }
                }
                Event::Recipient(_, reply) => {
                    accepted += u32::from(reply.is_positive());
                    client.advance(&envelope, &[0, 1], &mut out);
                }
                Event::Data(reply) if reply.is_intermediate() && accepted == 0 => client.abandon(&mut out),
                Event::Data(reply) if reply.is_intermediate() => client.body_written(),
                _ => {}
            }
            if client.can_begin() && begun < transactions_max {
                (begun, accepted) = (begun + 1, 0);
                client.begin(&envelope, &[0, 1], 10, &mut out);
            } else if client.is_idle() {
                client.quit(&mut out);
            }
        }
        assert_eq!(at, piece.len(), "without an event all is consumed");
    }
    (events, out)
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        Just(vec![1]),
        prop::collection::vec(1usize..30, 1..6),
        prop::collection::vec(1usize..500, 1..6)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_session_in_pieces(input in downstream(), cuts in cuts()) {
        let (mut whole, mut cut) = (Session::default(), Session::default());
        whole.feed(&input, &options());
        for piece in pieces(&input, &cuts) {
            cut.feed(piece, &options());
        }
        prop_assert_eq!(&whole.events, &cut.events);
        prop_assert_eq!(String::from_utf8_lossy(&whole.out), String::from_utf8_lossy(&cut.out));
        let bodies = |session: &Session| session.taken.iter().map(|(_, body)| body.clone()).collect::<Vec<_>>();
        prop_assert_eq!(bodies(&whole), bodies(&cut));
    }

    #[test]
    fn a_link_in_pieces(input in upstream(), cuts in cuts(), transactions_max in 0u32..4) {
        let whole = link(&[&input], transactions_max);
        let cut = link(&pieces(&input, &cuts), transactions_max);
        prop_assert_eq!(whole.0, cut.0);
        prop_assert_eq!(String::from_utf8_lossy(&whole.1), String::from_utf8_lossy(&cut.1));
    }

    #[test]
    fn any_bytes(input in prop::collection::vec(any::<u8>(), 0..3000), cuts in cuts()) {
        let mut session = Session::default();
        for piece in pieces(&input, &cuts) {
            session.feed(piece, &options());
        }
        link(&pieces(&input, &cuts), 2);
    }
}
