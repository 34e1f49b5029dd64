//! The client against the server: what goes in on one side comes out on the other.

use proptest::prelude::*;

use super::streams::pieces;
use super::{Session, options};
use crate::protocol::client::{Client, Event};
use crate::protocol::server::Options;
use crate::protocol::wire::command::{BodyKind, Mail, MailParameters, Notify, Recipient, Return};
use crate::protocol::wire::later::{ByMode, DeliverBy, Hold};
use crate::protocol::{Envelope, address};

/// A path, NOTIFY (success, failure, delay; none of them: never) and ORCPT.
type Addressee = (String, Option<(bool, bool, bool)>, Option<String>);

/// What a message is made of, owned.
#[derive(Clone, Debug)]
struct Letter {
    sender: String,
    eight_bit: bool,
    utf8: bool,
    ret: Option<bool>,
    envid: Option<String>,
    recipients: Vec<Addressee>,
    body: Vec<u8>,
}

impl Letter {
    fn envelope(&self) -> Envelope {
        let mut envelope = Envelope::default();
        let parameters = MailParameters {
            size: None,
            body: if self.eight_bit { BodyKind::EightBit } else { BodyKind::SevenBit },
            utf8: self.utf8,
            ret: self.ret.map(|full| if full { Return::Full } else { Return::Headers }),
            envid: self.envid.as_deref().map(str::as_bytes),
            ..MailParameters::default()
        };
        envelope.set_sender(&Mail { path: self.sender.as_bytes(), parameters });
        for (path, notify, orcpt) in &self.recipients {
            let notify = notify.map(|(success, failure, delay)| Notify {
                never: !(success || failure || delay),
                success,
                failure,
                delay,
            });
            let orcpt = orcpt.as_deref().map(str::as_bytes);
            envelope.push_recipient(&Recipient { path: path.as_bytes(), notify, orcpt });
        }
        envelope
    }

    /// As it goes by BDAT.
    fn plain(&self) -> Vec<u8> {
        let lines = self.body.split(|&b| b == b'\n');
        lines.flat_map(|line| [line, b"\r\n"].concat()).collect()
    }

    /// As it goes by DATA.
    fn wire(&self) -> Vec<u8> {
        let mut wire = Vec::new();
        for line in self.body.split(|&b| b == b'\n') {
            if line.starts_with(b".") {
                wire.push(b'.');
            }
            wire.extend_from_slice(line);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b".\r\n");
        wire
    }
}

/// Client and server, and the octets between them, which arrive in pieces.
struct Wires {
    client: Client,
    session: Session,
    options: Options,
    offers_pipelining: bool,
    /// Letters go by BDAT where the client may.
    chunking: bool,
    cuts: Vec<usize>,
}

impl Wires {
    /// Sends the letters one after another, each as soon as the client can, and returns who was refused.
    fn run(&mut self, letters: &[Letter]) -> Vec<Vec<u16>> {
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        self.session.server.greet(&self.options, &mut to_client);
        let mut sender = Sender {
            letters,
            envelopes: letters.iter().map(Letter::envelope).collect(),
            begun: 0,
            finals: 0,
            refused: vec![Vec::new(); letters.len()],
            chunking: self.chunking,
        };
        let mut quit = false;
        for _ in 0..10_000 {
            for piece in pieces(&std::mem::take(&mut to_client), &self.cuts) {
                sender.hear(&mut self.client, piece, &mut to_server);
            }
            if self.client.is_idle() && sender.finals == letters.len() && !quit {
                self.client.quit(&mut to_server);
                quit = true;
            } else if to_server.is_empty() {
                assert!(quit, "it came to a stop");
                return sender.refused;
            }
            for piece in pieces(&std::mem::take(&mut to_server), &self.cuts) {
                self.session.feed(piece, &self.options);
            }
            let mut said = std::mem::take(&mut self.session.out);
            if !self.offers_pipelining {
                said = String::from_utf8(said).expect("text").replace("250-PIPELINING\r\n", "").into_bytes();
            }
            to_client.extend_from_slice(&said);
        }
        panic!("it does not end");
    }
}

/// Who drives the client.
struct Sender<'a> {
    letters: &'a [Letter],
    envelopes: Vec<Envelope>,
    begun: usize,
    /// Letters that are over: the replies are the next one's.
    finals: usize,
    /// By letter: the positions refused.
    refused: Vec<Vec<u16>>,
    chunking: bool,
}

impl Sender<'_> {
    fn hear(&mut self, client: &mut Client, piece: &[u8], out: &mut Vec<u8>) {
        let mut at = 0;
        loop {
            let (taken, event) = client.receive(&piece[at..], "us", out);
            at += taken;
            let Some(event) = event else { return };
            match event {
                Event::Ready => {}
                Event::Mail(reply) => {
                    assert!(reply.is_positive());
                    self.advance(client, out);
                }
                Event::Recipient(position, reply) => {
                    if !reply.is_positive() {
                        self.refused[self.finals].push(position);
                    }
                    self.advance(client, out);
                }
                Event::Data(reply) if reply.is_intermediate() => {
                    out.extend_from_slice(&self.letters[self.finals].wire());
                    client.body_written();
                }
                // None was accepted.
                Event::Data(reply) => {
                    assert_eq!(reply.code, 503);
                    self.finals += 1;
                }
                Event::Final(reply) => {
                    let letter = self.finals;
                    let is_all = self.refused[letter].len() == self.letters[letter].recipients.len();
                    assert_eq!(reply.is_positive(), !is_all);
                    self.finals += 1;
                }
                other => panic!("{other:?}"),
            }
            while client.can_begin() && self.begun < self.letters.len() {
                let (letter, envelope) = (&self.letters[self.begun], &self.envelopes[self.begun]);
                if self.chunking && client.capabilities().takes_chunks() {
                    let plain = letter.plain();
                    client.begin_chunked(envelope, &positions(envelope), plain.len() as u64, out);
                    out.extend_from_slice(&plain);
                } else {
                    client.begin(envelope, &positions(envelope), letter.wire().len() as u64, out);
                }
                self.begun += 1;
            }
        }
    }

    fn advance(&self, client: &mut Client, out: &mut Vec<u8>) {
        let envelope = &self.envelopes[self.finals];
        client.advance(envelope, &positions(envelope), out);
    }
}

fn positions(envelope: &Envelope) -> Vec<u16> {
    (0..envelope.len() as u16).collect()
}

fn letter() -> impl Strategy<Value = Letter> {
    let path = "([a-z]{1,10}|\"[a-z @<>]{0,9}\")@[a-z]{1,10}(\\.[a-z]{2,5})?";
    let recipient = (
        prop_oneof![6 => path, 1 => Just("postmaster".to_owned()), 2 => "no[a-z]{1,4}@b"],
        prop::option::of(any::<(bool, bool, bool)>()),
        prop::option::of("rfc822;[a-z]{1,20}\\+40b"),
    );
    let line =
        prop_oneof![Just(b"\n".to_vec()), Just(b".".to_vec()), prop::collection::vec(32u8..=255, 0..80)];
    (
        prop_oneof![
            Just(String::new()),
            path.prop_filter("taken", |p| !p.starts_with("no") && !p.starts_with("late"))
        ],
        any::<bool>(),
        any::<bool>(),
        prop::option::of(any::<bool>()),
        prop::option::of("[a-z]{1,20}"),
        prop::collection::vec(recipient, 1..5),
        prop::collection::vec(line, 0..60).prop_map(|lines| lines.concat()),
    )
        .prop_map(|(sender, eight_bit, utf8, ret, envid, recipients, body)| Letter {
            sender,
            eight_bit,
            utf8,
            ret,
            envid,
            recipients,
            body,
        })
}

proptest! {
    #[test]
    fn letters_arrive(
        letters in prop::collection::vec(letter(), 1..5),
        offers_pipelining in any::<bool>(),
        chunking in any::<bool>(),
        cuts in prop_oneof![Just(vec![]), prop::collection::vec(1usize..200, 1..5)],
    ) {
        let options = Options { size_max: 1 << 20, recipients_max: 100, ..options() };
        let mut wires =
            Wires { client: Client::new(), session: Session::default(), options, offers_pipelining, chunking, cuts };
        let refused = wires.run(&letters);
        let is_refused = |path: &str| path.starts_with("no");
        let sent: Vec<_> =
            letters.iter().filter(|l| l.recipients.iter().any(|(path, ..)| !is_refused(path))).collect();
        prop_assert_eq!(wires.session.taken.len(), sent.len());
        for (letter, (envelope, body)) in sent.into_iter().zip(&wires.session.taken) {
            let original = letter.envelope();
            let by_chunk = chunking && offers_pipelining;
            prop_assert_eq!(&if by_chunk { letter.plain() } else { letter.wire() }, body);
            prop_assert_eq!(original.sender(), envelope.sender());
            let size = Some(body.len() as u64);
            prop_assert_eq!(MailParameters { size, ..original.mail() }, envelope.mail());
            let wanted: Vec<_> = (0..original.len())
                .map(|i| original.recipient(i))
                .filter(|recipient| !recipient.path.starts_with(b"no"))
                .collect();
            let got: Vec<_> = (0..envelope.len()).map(|i| envelope.recipient(i)).collect();
            prop_assert_eq!(wanted, got);
        }
        for (letter, refused) in letters.iter().zip(refused) {
            let expected: Vec<u16> = (0..letter.recipients.len())
                .filter(|&i| is_refused(&letter.recipients[i].0))
                .map(|i| i as u16)
                .collect();
            prop_assert_eq!(refused, expected);
        }
    }
}

#[test]
fn an_envelope_is_used_again() {
    let mut envelope = Envelope::default();
    for round in 0..3 {
        envelope.clear();
        assert!(envelope.is_empty() && envelope.sender().is_empty());
        assert_eq!(envelope.mail(), MailParameters::default());
        let path = format!("r{round}@example.org");
        let parameters = MailParameters {
            size: Some(round),
            envid: Some(b"id"),
            hold: Some(Hold::For(60)),
            by: Some(DeliverBy { seconds: 120, mode: ByMode::Return, trace: false }),
            ..MailParameters::default()
        };
        envelope.set_sender(&Mail { path: path.as_bytes(), parameters });
        envelope.push_recipient(&Recipient { path: path.as_bytes(), notify: None, orcpt: Some(b"rfc822;x") });
        assert_eq!(envelope.len(), 1);
        assert_eq!(envelope.sender(), path.as_bytes());
        assert_eq!(envelope.mail(), parameters);
        assert_eq!(envelope.recipient(0).orcpt, Some(&b"rfc822;x"[..]));
        assert_eq!(address::domain(envelope.recipient(0).path), b"example.org");
    }
}
