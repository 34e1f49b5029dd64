//! Addresses and commands, by table.

use crate::protocol::wire::address::{self, Fault as AddressFault};
use crate::protocol::wire::command::{BodyKind, Fault, Mail, Notify, Recipient, Return, Verb};
use crate::protocol::wire::later::{ByMode, DeliverBy, Hold};

fn parsed(text: &str) -> Result<String, AddressFault> {
    let (path, rest) = address::path(text.as_bytes())?;
    assert!(rest.is_empty() || rest[0] == b' ', "nothing of {text:?} is left over: {rest:?}");
    Ok(String::from_utf8(path.to_vec()).expect("valid"))
}

#[test]
fn paths_that_are_valid() {
    for (text, path) in [
        ("<>", ""),
        ("<a@b>", "a@b"),
        ("<A.b.c@x-y.z0.example>", "A.b.c@x-y.z0.example"),
        ("<!#$%&'*+-/=?^_`{|}~@b>", "!#$%&'*+-/=?^_`{|}~@b"),
        ("<\"\"@b>", "\"\"@b"),
        ("<\"a b\\\"@\\\\ <>\"@b>", "\"a b\\\"@\\\\ <>\"@b"),
        ("<a@[127.0.0.1]>", "a@[127.0.0.1]"),
        ("<a@[IPv6:::1]>", "a@[IPv6:::1]"),
        ("<a@[ipv6:2001:db8::192.0.2.1]>", "a@[ipv6:2001:db8::192.0.2.1]"),
        ("<a@[x-tag:any=thing!]>", "a@[x-tag:any=thing!]"),
        ("<@x:a@b>", "a@b"),
        ("<@x,@[127.0.0.1],@z.example:a@b>", "a@b"),
        ("<postmaster>", "postmaster"),
        ("<PostMaster>", "PostMaster"),
        ("<jürgen@bücher.example>", "jürgen@bücher.example"),
        ("<\"ü\"@b>", "\"ü\"@b"),
        ("<a@b> SIZE=1", "a@b"),
    ] {
        assert_eq!(parsed(text).as_deref(), Ok(path), "{text}");
    }
}

#[test]
fn paths_that_are_not() {
    for text in [
        "",
        "<",
        ">",
        "a@b",
        "<a@b",
        "a@b>",
        "<a>",
        "<@b>",
        "<a@>",
        "<a b@c>",
        "<.a@b>",
        "<a.@b>",
        "<a..b@c>",
        "<a@b.>",
        "<a@.b>",
        "<a@b..c>",
        "<a@-b>",
        "<a@b->",
        "<a@b_c>",
        "<a@b@c>",
        "<\"a@b>",
        "<\"a\"b@c>",
        "<\"a\\\"@b>",
        "<\"\\",
        "<\"a\tb\"@c>",
        "<\"a\\\u{7}\"@c>",
        "<a@[]>",
        "<a@[127.0.0]>",
        "<a@[256.0.0.1]>",
        "<a@[IPv6:]>",
        "<a@[IPv6:1]>",
        "<a@[tag:]>",
        "<a@[:x]>",
        "<a@[tag-:x]>",
        "<a@[tag:a@b]>",
        "<a@[127.0.0.1>",
        "<a@[127.0.0.1]x>",
        "<@x:>",
        "<@x,a@b>",
        "<@x,:a@b>",
        "<@x,@y a@b>",
        "<:a@b>",
        "<<a@b>>",
        "<(c)a@b>",
        "<post master>",
        "<\"postmaster\">",
    ] {
        assert_eq!(parsed(text), Err(AddressFault::Syntax), "{text}");
    }
    assert_eq!(address::path(b"<\xff@b>"), Err(AddressFault::Syntax), "not UTF-8");
}

#[test]
fn paths_at_their_limits() {
    let local = |len| format!("<{}@b>", "l".repeat(len));
    assert!(parsed(&local(64)).is_ok());
    assert_eq!(parsed(&local(65)), Err(AddressFault::LocalTooLong));
    // A local part as short as can be leaves the domain 252 octets within a path of 256.
    let domain = |len| format!("<l@{}>", "d".repeat(len));
    assert!(parsed(&domain(252)).is_ok());
    assert_eq!(parsed(&domain(253)), Err(AddressFault::PathTooLong));
    assert_eq!(parsed(&domain(256)), Err(AddressFault::DomainTooLong));
    let routed = format!("<@{}:a@b>", "r".repeat(249));
    assert!(parsed(&routed).is_ok());
    assert_eq!(parsed(&routed.replace('@', "@r")), Err(AddressFault::PathTooLong));
}

#[test]
fn domains() {
    for (path, domain) in [
        ("", ""),
        ("postmaster", ""),
        ("a@b.c", "b.c"),
        ("\"x@y\"@b", "b"),
        ("\"x\\\"@y\"@b", "b"),
        ("\"x@y", ""),
        ("a@b@c", "c"),
        ("a@[IPv6:::1]", "[IPv6:::1]"),
        ("a@", ""),
    ] {
        assert_eq!(address::domain(path.as_bytes()), domain.as_bytes(), "{path}");
    }
}

#[test]
fn verbs() {
    for (line, verb, rest) in [
        ("EHLO a", Verb::Ehlo, "a"),
        ("ehlo   a b  ", Verb::Ehlo, "a b"),
        ("Mail FROM:<>", Verb::Mail, "FROM:<>"),
        ("data", Verb::Data, ""),
        ("starttls", Verb::Unimplemented, ""),
        ("", Verb::Unknown, ""),
        ("MAILFROM:<>", Verb::Unknown, ""),
        ("NOOPS", Verb::Unknown, ""),
        (" NOOP", Verb::Unknown, "NOOP"),
    ] {
        assert_eq!(Verb::split(line.as_bytes()), (verb, rest.as_bytes()), "{line}");
    }
}

#[test]
fn mail_with_all_parameters() {
    let line = b"from:  <a@b> size=12 BODY=8bitmime SMTPUTF8  RET=hdrs ENVID=x+2By ";
    let mail = Mail::parse(line, true).expect("valid");
    let parameters = mail.parameters;
    assert_eq!(mail.path, b"a@b");
    assert_eq!(parameters.size, Some(12));
    assert_eq!(parameters.body, BodyKind::EightBit);
    assert!(parameters.utf8);
    assert_eq!(parameters.ret, Some(Return::Headers));
    assert_eq!(parameters.envid, Some(&b"x+2By"[..]));
    assert_eq!((parameters.hold, parameters.by), (None, None));
    let mail = Mail::parse(b"FROM:<a@b> holduntil=2026-11-24T08:00:00Z by=-60;nt", true).expect("valid");
    assert_eq!(mail.parameters.hold, Some(Hold::Until(1_795_507_200)));
    assert_eq!(mail.parameters.by, Some(DeliverBy { seconds: -60, mode: ByMode::Notify, trace: true }));
}

#[test]
fn mail_that_is_faulty() {
    let bad = Fault::ParameterBad;
    for (arguments, fault) in [
        ("", Fault::Syntax),
        ("<a@b>", Fault::Syntax),
        ("TO:<a@b>", Fault::Syntax),
        ("FROM <a@b>", Fault::Syntax),
        ("FROM:<postmaster>", Fault::Address(AddressFault::Syntax)),
        ("FROM:<a@b>SIZE=1", Fault::Address(AddressFault::Syntax)),
        ("FROM:<ü@b>", Fault::Utf8),
        ("FROM:<a@b> AUTH=<>", Fault::ParameterUnknown),
        ("FROM:<a@b> SIZE", bad),
        ("FROM:<a@b> SIZE=", bad),
        ("FROM:<a@b> SIZE=1x", bad),
        ("FROM:<a@b> SIZE=-1", bad),
        ("FROM:<a@b> SIZE=1 SIZE=1", bad),
        ("FROM:<a@b> BODY=9BIT", bad),
        ("FROM:<a@b> BODY=BINARY", bad),
        ("FROM:<a@b> BODY=7BIT BODY=7BIT", bad),
        ("FROM:<a@b> SMTPUTF8=1", bad),
        ("FROM:<a@b> SMTPUTF8 SMTPUTF8", bad),
        ("FROM:<a@b> RET=ALL", bad),
        ("FROM:<a@b> ENVID=", bad),
        ("FROM:<a@b> ENVID=a+2b", bad),
        ("FROM:<a@b> HOLDFOR", bad),
        ("FROM:<a@b> HOLDFOR=0", bad),
        ("FROM:<a@b> HOLDUNTIL=tomorrow", bad),
        ("FROM:<a@b> HOLDFOR=60 HOLDUNTIL=2026-11-24T08:00:00Z", bad),
        ("FROM:<a@b> BY=60", bad),
        ("FROM:<a@b> BY=-1;R", bad),
        ("FROM:<a@b> BY=60;R BY=60;R", bad),
        ("FROM:<a@b> =1", bad),
        ("FROM:<a@b> S!ZE=1", bad),
    ] {
        assert_eq!(Mail::parse(arguments.as_bytes(), true).err(), Some(fault), "{arguments}");
    }
    // Twenty digits are legal (RFC 1870 3), whatever they say: too large, not malformed.
    let huge = Mail::parse(b"FROM:<a@b> SIZE=99999999999999999999", true).expect("legal");
    assert_eq!(huge.parameters.size, Some(u64::MAX));
    let envid = |len| format!("FROM:<> ENVID={}", "e".repeat(len));
    assert!(Mail::parse(envid(100).as_bytes(), true).is_ok());
    assert_eq!(Mail::parse(envid(101).as_bytes(), true).err(), Some(bad));
    assert_eq!(Mail::parse(b"FROM:<> SIZE=1", false).err(), Some(Fault::ParameterUnknown), "after HELO");
    assert!(Mail::parse("FROM:<ü@b> SMTPUTF8".as_bytes(), true).is_ok());
}

#[test]
fn recipients() {
    let parse = |text: &'static str, utf8| Recipient::parse(text.as_bytes(), true, utf8);
    let full = parse("TO:<a@b> NOTIFY=success,DELAY ORCPT=rfc822;a+40b", false).expect("valid");
    assert_eq!(full.notify, Some(Notify { success: true, delay: true, ..Notify::default() }));
    assert_eq!(full.orcpt, Some(&b"rfc822;a+40b"[..]));
    let never = parse("TO:<Postmaster> NOTIFY=NEVER", false).expect("valid");
    assert_eq!(never.notify, Some(Notify { never: true, ..Notify::default() }));
    let bad = Fault::ParameterBad;
    for (arguments, fault) in [
        ("TO:<>", Fault::Address(AddressFault::Syntax)),
        ("TO:<a>", Fault::Address(AddressFault::Syntax)),
        ("TO:<a@ü>", Fault::Utf8),
        ("TO:<a@b> SIZE=1", Fault::ParameterUnknown),
        ("TO:<a@b> NOTIFY", bad),
        ("TO:<a@b> NOTIFY=", bad),
        ("TO:<a@b> NOTIFY=NEVER,DELAY", bad),
        ("TO:<a@b> NOTIFY=DELAY,", bad),
        ("TO:<a@b> NOTIFY=DELAY NOTIFY=DELAY", bad),
        ("TO:<a@b> ORCPT=a@b", bad),
        ("TO:<a@b> ORCPT=;a", bad),
        ("TO:<a@b> ORCPT=rfc822;", bad),
        ("TO:<a@b> ORCPT=utf-8;ü", bad),
        ("TO:<a@b> ORCPT=rfc822;a=b", bad),
    ] {
        assert_eq!(parse(arguments, false).err(), Some(fault), "{arguments}");
    }
    assert!(parse("TO:<a@ü> ORCPT=utf-8;ü", true).is_ok());
    let orcpt = |len: usize| format!("TO:<a@b> ORCPT=rfc822;{}", "o".repeat(len - 7));
    assert!(Recipient::parse(orcpt(500).as_bytes(), true, false).is_ok());
    assert_eq!(Recipient::parse(orcpt(501).as_bytes(), true, false).err(), Some(bad));
}
