//! Any bytes as replies: what is read and written again reads the same, in legal lines, once its control bytes
//! are gone and its lines folded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postlane::protocol::ReplyBuf;
use postlane::protocol::client::ReplyReader;
use postlane::protocol::wire::reply::LINE_MAX;

fn read(input: &[u8]) -> Vec<ReplyBuf> {
    let mut replies = Vec::new();
    let _ = ReplyReader::default().read(input, &mut |reply| replies.push(reply.to_buf()));
    replies
}

fn write(replies: &[ReplyBuf]) -> Vec<u8> {
    let mut wire = Vec::new();
    for reply in replies {
        reply.as_reply().write(&mut wire);
    }
    wire
}

fuzz_target!(|data: &[u8]| {
    let replies = read(data);
    let wire = write(&replies);
    for line in wire.split_inclusive(|&b| b == b'\n') {
        assert!(line.len() <= LINE_MAX && line.ends_with(b"\r\n"));
        assert!(!line[..line.len() - 2].iter().any(|&b| b < 32 && b != b'\t'));
    }
    let again = read(&wire);
    assert_eq!(again.len(), replies.len());
    for (one, two) in replies.iter().zip(&again) {
        assert_eq!(one.as_reply().code, two.as_reply().code);
    }
});
