//! Any bytes from a downstream: no panic, and the same events in whatever pieces they come. The first octet is
//! the pieces' size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postlane::protocol::server::{Event, Options, Server};
use postlane::protocol::wire::data::Form;
use postlane::protocol::{Enhanced, Reply};

const OK: Reply<'static> = Reply::new(250, Enhanced(2, 0, 0), "ok");
const NO: Reply<'static> = Reply::new(550, Enhanced(5, 0, 0), "no");

/// All events but bodies as text, the bodies of messages taken, and what was said.
fn run<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    options: &Options,
) -> (Vec<String>, Vec<Vec<u8>>, Vec<u8>) {
    let (mut server, mut out) = (Server::default(), Vec::new());
    let (mut events, mut bodies, mut body) = (Vec::new(), Vec::new(), Vec::new());
    server.greet(options, &mut out);
    for piece in pieces {
        let mut at = 0;
        loop {
            let (taken, event) = server.receive(&piece[at..], options, &mut out);
            let start = at;
            at += taken;
            let Some(event) = event else { break };
            let answer = match &event {
                Event::Body(range) => {
                    body.extend_from_slice(&piece[start..][range.clone()]);
                    continue;
                }
                Event::Mail(mail) if mail.path.len() % 5 == 4 => Some(NO),
                Event::Recipient(recipient) if recipient.path.len() % 5 == 4 => Some(NO),
                Event::Mail(_) | Event::Recipient(_) => Some(OK),
                Event::Data => Some(Reply {
                    code: 354,
                    enhanced: None,
                    text: b"go",
                }),
                Event::Chunk(Ok(_)) => Some(OK),
                Event::Hello { .. } | Event::Reset => {
                    body.clear();
                    None
                }
                Event::End(Ok(size)) => {
                    assert_eq!(*size, body.len() as u64);
                    assert!(!body.contains(&0));
                    Some(OK)
                }
                Event::Chunk(Err(violation)) | Event::End(Err(violation)) => {
                    body.clear();
                    Some(violation.reply())
                }
                _ => None,
            };
            events.push(format!("{event:?}"));
            if let Event::End(Ok(_)) = event {
                let is_ended = body == b".\r\n" || body.ends_with(b"\r\n.\r\n");
                assert!(server.shape().form == Form::Plain || is_ended);
                bodies.push(std::mem::take(&mut body));
            }
            if let Some(answer) = answer {
                server.answer(answer, &mut out);
            }
        }
        assert_eq!(at, piece.len());
    }
    (events, bodies, out)
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, input)) = data.split_first() else {
        return;
    };
    let options = Options {
        size_max: 100,
        recipients_max: 3,
        faults_max: 5,
        ..Options::default()
    };
    let whole = run(std::iter::once(input), &options);
    let pieces = run(input.chunks(usize::from(size).max(1)), &options);
    assert_eq!(whole, pieces);
});
