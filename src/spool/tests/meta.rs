//! Encodings come back as they were, and no octets make the reader stumble.

use proptest::prelude::*;

use super::*;

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..80)
}

fn notify() -> impl Strategy<Value = Option<Notify>> {
    let bits = any::<[bool; 4]>();
    prop::option::of(bits.prop_map(|[never, success, failure, delay]| Notify {
        never,
        success,
        failure,
        delay,
    }))
}

fn hold() -> impl Strategy<Value = Option<Hold>> {
    prop_oneof![
        Just(None),
        any::<u32>().prop_map(|seconds| Some(Hold::For(seconds))),
        any::<u64>().prop_map(|unix| Some(Hold::Until(unix))),
    ]
}

prop_compose! {
    fn envelope()(
        sender in path(), size in prop::option::of(0..u64::MAX - 1), kind in 0..3_usize, utf8 in any::<bool>(),
        ret in prop::option::of(any::<bool>()), envid in prop::option::of(path()),
        by in prop::option::of(any::<(i32, bool, bool)>()), hold in hold(),
        recipients in prop::collection::vec((path(), notify(), prop::option::of(path())), 0..80),
    ) -> Envelope {
        let mut envelope = Envelope::default();
        let ret = ret.map(|full| if full { Return::Full } else { Return::Headers });
        let body = [BodyKind::SevenBit, BodyKind::EightBit, BodyKind::Binary][kind];
        let by = by.map(|(seconds, returns, trace)| DeliverBy {
            seconds,
            mode: if returns { ByMode::Return } else { ByMode::Notify },
            trace,
        });
        let parameters = MailParameters { size, body, utf8, ret, envid: envid.as_deref(), by, hold };
        envelope.set_sender(&Mail { path: &sender, parameters });
        for (path, notify, orcpt) in &recipients {
            envelope.push_recipient(&Recipient { path, notify: *notify, orcpt: orcpt.as_deref() });
        }
        envelope
    }
}

fn same(a: &Envelope, b: &Envelope) -> bool {
    let is_like = |i: usize| a.recipient(i) == b.recipient(i);
    a.sender() == b.sender() && a.mail() == b.mail() && a.len() == b.len() && (0..a.len()).all(is_like)
}

proptest! {
    #[test]
    fn facts_come_back(
        envelope in envelope(), words in any::<[u64; 6]>(), shard in any::<u16>(), bits in any::<[bool; 3]>(),
        source in prop::option::of(any::<IpAddr>()), listener in "[a-z]{0,20}",
    ) {
        let [epoch_ms, number, created_unix_ms, size, source_key, dots] = words;
        let [plain, ends_line, internal] = bits;
        let form = if plain { Form::Plain } else { Form::Stuffed };
        let kept = Kept {
            id: MessageId { epoch_ms, shard: ShardId(shard), number },
            envelope: &envelope, remaining: &[], head: &[], body: &[],
            shape: Shape { form, dots, ends_line },
            internal, listener: &listener, source, source_key, size, created_unix_ms, pool: 0, attempts: 0,
        };
        let mut out = Vec::new();
        encode_facts(&kept, &mut out);
        let (facts, rest) = decode_facts(&out).expect("just encoded");
        let expected = MessageFacts {
            id: kept.id, listener: &listener, source, source_key, size, shape: kept.shape, internal, created_unix_ms,
        };
        prop_assert_eq!(facts, expected);
        let mut back = Envelope::default();
        prop_assert!(EncodedEnvelope(rest).decode(&mut back));
        prop_assert!(same(&back, &envelope));
        let (encoded, mail) = (EncodedEnvelope(rest), envelope.mail());
        prop_assert_eq!((encoded.recipients(), encoded.by(), encoded.hold()), (envelope.len(), mail.by, mail.hold));
        for cut in 0..rest.len() {
            prop_assert!(!EncodedEnvelope(&rest[..cut]).decode(&mut back), "cut at {}", cut);
        }
    }

    /// Whoever does not know of it finds all that was there before it, and without it nothing has changed.
    #[test]
    fn what_is_held_is_told_behind_all_else(mut envelope in envelope(), hold in hold()) {
        let mut without = Envelope::default();
        without.set_sender(&Mail { path: envelope.sender(), parameters: MailParameters { hold: None, ..envelope.mail() } });
        (0..envelope.len()).for_each(|at| without.push_recipient(&envelope.recipient(at)));
        let (mut before, mut after) = (Vec::new(), Vec::new());
        encode_envelope(&without, &mut before);
        if let Some(hold) = hold {
            envelope.set_hold(hold);
        }
        encode_envelope(&envelope, &mut after);
        prop_assert!(after.len() >= before.len());
        let differ: Vec<u8> = before.iter().zip(&after).map(|(a, b)| a ^ b).filter(|bits| *bits != 0).collect();
        prop_assert!(differ.is_empty() && envelope.mail().hold.is_none() || differ == [8], "{:?}", differ);
    }

    #[test]
    fn states_come_back(
        head in any::<(u8, u8, u16, u64)>(), recipients in prop::collection::vec(0..1_000u16, 0..40),
        code in 200..600u16, enhanced in prop::option::of((2..6u8, 0..999u16, 0..999u16)), text in "[ -~]{0,300}",
    ) {
        let (attempts, flags, pool, due_unix_ms) = head;
        let enhanced = enhanced.map(|(class, subject, detail)| Enhanced(class, subject, detail));
        let reply = encode_reply(&Reply { code, enhanced, text: text.as_bytes() });
        let state = State { attempts, flags, pool, due_unix_ms, remaining: Remaining::of(&recipients), reply: &reply };
        let mut out = Vec::new();
        encode_state(&state, &mut out);
        out.push(7);
        let (back, rest) = decode_state(&out).expect("just encoded");
        prop_assert_eq!((&back, rest), (&state, &[7][..]));
        let kept = decode_reply(back.reply).expect("just encoded");
        let kept = kept.as_reply();
        prop_assert_eq!((kept.code, kept.enhanced), (code, enhanced));
        prop_assert_eq!(kept.text, &text.as_bytes()[..text.len().min(REPLY_TEXT_MAX)]);
    }

    #[test]
    fn any_octets_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut envelope = Envelope::default();
        let _ = (decode_state(&bytes), decode_reply(&bytes), EncodedEnvelope(&bytes).decode(&mut envelope));
        if let Some((_, rest)) = decode_facts(&bytes) {
            EncodedEnvelope(rest).decode(&mut envelope);
        }
    }
}
