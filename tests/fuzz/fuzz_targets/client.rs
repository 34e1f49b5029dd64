//! Any bytes from an upstream: no panic, and the same events in whatever pieces they come. The first octet is
//! the pieces' size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postlane::protocol::client::{Client, Event};
use postlane::protocol::{Envelope, Mail, MailParameters, Recipient};

fn run<'a>(pieces: impl Iterator<Item = &'a [u8]>, envelope: &Envelope) -> (Vec<String>, Vec<u8>) {
    let (mut client, mut out, mut events, mut begun) = (Client::new(), Vec::new(), Vec::new(), 0);
    for piece in pieces {
        let mut at = 0;
        loop {
            let (taken, event) = client.receive(&piece[at..], "us.example", &mut out);
            at += taken;
            let Some(event) = event else { break };
            events.push(format!("{event:?}"));
            match event {
                Event::Mail(reply) => {
                    let is_refused = !reply.is_positive();
                    if !(is_refused && client.break_off()) {
                        client.advance(envelope, &[1, 0], &mut out);
                    }
                }
                Event::Recipient(..) => client.advance(envelope, &[1, 0], &mut out),
                Event::Data(reply) if reply.code == 354 => client.body_written(),
                Event::Data(reply) if reply.is_intermediate() => client.abandon(&mut out),
                _ => {}
            }
            if client.can_begin() && begun < 4 {
                begun += 1;
                client.begin(envelope, &[1, 0], 10, &mut out);
            } else if client.is_idle() {
                client.quit(&mut out);
            }
        }
        assert_eq!(at, piece.len());
    }
    (events, out)
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, input)) = data.split_first() else {
        return;
    };
    let mut envelope = Envelope::default();
    envelope.set_sender(&Mail {
        path: b"a@b",
        parameters: MailParameters::default(),
    });
    for path in [&b"c@d"[..], b"e@f"] {
        envelope.push_recipient(&Recipient {
            path,
            notify: None,
            orcpt: Some(b"rfc822;x"),
        });
    }
    let whole = run(std::iter::once(input), &envelope);
    let pieces = run(input.chunks(usize::from(size).max(1)), &envelope);
    assert_eq!(whole, pieces);
});
