//! Any mixture of calls and of what peers do, from a fixed seed: every byte in its place, every end told once,
//! nothing left over.

use std::collections::HashMap;

use postlane::handle::StreamId;
use postlane::net::{Cause, Net};

use crate::ground::{Far, Ground, Stage, pattern};

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

struct Pair {
    far: Far,
    /// What the far end sent, and what was written to it.
    inward: Vec<u8>,
    outward: Vec<u8>,
    far_received: Vec<u8>,
    /// We have called close or abort.
    left: bool,
    far_left: bool,
}

pub(crate) fn any_mixture_keeps_every_promise<G: Ground>() {
    let mut stage = Stage::<G>::with_buffers(96, 16);
    let mut dice = Dice(0x5eed);
    let body = pattern(40_000, 9);
    let extents = stage.extents_of(&body);
    let at = stage.ground.listen();
    let mut pairs: HashMap<StreamId, Pair> = HashMap::new();
    let mut order: Vec<StreamId> = Vec::new();
    for round in 0..6_000 {
        if order.len() < 12 && dice.roll(4) == 0 {
            let (stream, far) = if dice.roll(2) == 0 { stage.accept_one() } else { stage.open_one(at) };
            let (inward, outward, far_received) = (Vec::new(), Vec::new(), Vec::new());
            let pair = Pair { far, inward, outward, far_received, left: false, far_left: false };
            assert!(pairs.insert(stream, pair).is_none());
            order.push(stream);
        }
        if !order.is_empty() {
            let stream = order[dice.roll(order.len())];
            let pair = pairs.get_mut(&stream).unwrap();
            act(&mut stage, &mut dice, stream, pair, round, (&body, &extents));
        }
        if dice.roll(3) > 0 {
            stage.step();
        }
        for (&stream, pair) in &mut pairs {
            stage.ground.take_received(pair.far, &mut pair.far_received);
            assert!(pair.outward.starts_with(&pair.far_received), "round {round}: bytes out");
            assert!(pair.inward.starts_with(stage.received(stream)), "round {round}: bytes in");
        }
        order.retain(|stream| {
            let Some(cause) = stage.closed.get(stream) else {
                return true;
            };
            let pair = pairs.remove(stream).unwrap();
            assert!(pair.left || pair.far_left, "{cause:?} though nobody left");
            assert!(!matches!(cause, Cause::NotOpened(_)));
            stage.ground.close(pair.far);
            false
        });
    }
    for (stream, pair) in pairs {
        stage.ground.resume(pair.far);
        stage.net().resume(stream);
        stage.net().close(stream);
        stage.until_closed(stream);
        stage.ground.close(pair.far);
    }
    stage.release_all(&extents);
    stage.settle();
    assert_eq!((stage.ground.streams(), stage.ground.buffers_held()), (0, 0));
    assert!(stage.closed.len() > 200, "the mixture ended many streams: {}", stage.closed.len());
}

fn act<G: Ground>(
    stage: &mut Stage<G>,
    dice: &mut Dice,
    stream: StreamId,
    pair: &mut Pair,
    round: usize,
    (body, extents): (&[u8], &[postlane::handle::Extent]),
) {
    match dice.roll(20) {
        0..4 if !pair.left => {
            let line = format!("line of round {round}\r\n");
            stage.net().write(stream, line.as_bytes());
            pair.outward.extend(line.as_bytes());
        }
        4..7 if !pair.left => {
            stage.net().write_body(stream, extents);
            stage.net().mark(stream);
            pair.outward.extend(body);
        }
        7..12 if !pair.far_left => {
            let bytes = pattern(1 + dice.roll(60_000), round as u64);
            stage.ground.send(pair.far, &bytes);
            pair.inward.extend(bytes);
        }
        12 => stage.net().pause(stream),
        13 | 14 => stage.net().resume(stream),
        15 => stage.ground.pause(pair.far),
        16 => stage.ground.resume(pair.far),
        17 => {
            if dice.roll(2) == 0 {
                stage.net().close(stream);
            } else {
                stage.net().abort(stream);
            }
            pair.left = true;
        }
        18 if !pair.far_left => {
            pair.far_left = true;
            match dice.roll(3) {
                0 => stage.ground.reset(pair.far),
                1 => stage.ground.close(pair.far),
                _ => stage.ground.shutdown(pair.far),
            }
        }
        _ => {}
    }
}
