//! Letters between shards: for each pair a single-producer ring, and for each shard a bell that says whether it
//! has to be woken.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rtrb::{Consumer, Producer, PushError, RingBuffer};

use crate::handle::ShardId;

/// Letters that one ring holds; what does not fit waits with its sender.
const RING_LETTERS: usize = 1024;

/// A flag on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Bell(AtomicBool);

/// Which shards sleep, or are about to.
#[derive(Debug)]
struct Bells(Vec<Bell>);

/// One shard's letter boxes.
#[derive(Debug)]
pub struct Mailbox<T> {
    shard: ShardId,
    bells: Arc<Bells>,
    inboxes: Vec<Consumer<T>>,
    /// The box that letters are taken from, until it is empty.
    at: usize,
    outboxes: Vec<Outbox<T>>,
}

#[derive(Debug)]
struct Outbox<T> {
    ring: Producer<T>,
    /// What the ring had no room for, in order.
    waiting: VecDeque<T>,
    /// Posted to since the bells were last rung.
    posted: bool,
}

/// The mailboxes of `shards` shards, in their order.
pub fn mailboxes<T>(shards: u16) -> Vec<Mailbox<T>> {
    let bells = Arc::new(Bells((0..shards).map(|_| Bell::default()).collect()));
    let mut boxes: Vec<Mailbox<T>> = (0..shards)
        .map(|n| Mailbox {
            shard: ShardId(n),
            bells: bells.clone(),
            inboxes: Vec::new(),
            at: 0,
            outboxes: Vec::new(),
        })
        .collect();
    for from in 0..usize::from(shards) {
        for to in 0..usize::from(shards) {
            // A shard's ring to itself is never used; it keeps the indexes plain.
            let (ring, inbox) = RingBuffer::new(if from == to { 1 } else { RING_LETTERS });
            boxes[from].outboxes.push(Outbox { ring, waiting: VecDeque::new(), posted: false });
            boxes[to].inboxes.push(inbox);
        }
    }
    boxes
}

/// Bytes of the rings of so many shards' mailboxes; pages of them count once letters have come that far.
pub const fn ring_bytes<T>(shards: u64) -> u64 {
    let pairs = shards * shards.saturating_sub(1);
    (pairs * RING_LETTERS as u64 + shards) * size_of::<T>() as u64
}

impl<T> Mailbox<T> {
    /// Puts a letter into `to`'s box. It is seen when that shard next looks; `ring` makes sure that it does.
    pub fn post(&mut self, to: ShardId, letter: T) {
        let outbox = &mut self.outboxes[to.index()];
        outbox.posted = true;
        // In order: not past those that had no room.
        let letter =
            if outbox.waiting.is_empty() { outbox.ring.push(letter) } else { Err(PushError::Full(letter)) };
        if let Err(PushError::Full(letter)) = letter {
            outbox.waiting.push_back(letter);
        }
    }

    /// Takes a letter out: of one sender all that there are, then of the next.
    pub fn take(&mut self) -> Option<T> {
        for _ in 0..self.inboxes.len() {
            if let Ok(letter) = self.inboxes[self.at].pop() {
                return Some(letter);
            }
            self.at = (self.at + 1) % self.inboxes.len();
        }
        None
    }

    /// Wakes those posted to that sleep, by `wake`, unless somebody has done so since they fell asleep. To be called after a
    /// turn's posts.
    pub fn ring(&mut self, mut wake: impl FnMut(ShardId)) {
        if !self.outboxes.iter().any(|outbox| outbox.posted || !outbox.waiting.is_empty()) {
            return;
        }
        self.outboxes.iter_mut().for_each(Outbox::push_waiting);
        // Pairs with the fence in `sleep`: either we see the bell, or the sleeper sees our letter.
        fence(Ordering::SeqCst);
        for (to, outbox) in self.outboxes.iter_mut().enumerate() {
            let bell = &self.bells.0[to].0;
            // (Looked at first: most are awake, and a look does not take the line away from them.)
            if std::mem::take(&mut outbox.posted)
                && bell.load(Ordering::Relaxed)
                && bell.swap(false, Ordering::Relaxed)
            {
                wake(ShardId(to as u16));
            }
        }
    }

    /// Says that this shard may sleep from now on. True if it must not: there is mail, in either direction.
    pub fn sleep(&mut self) -> bool {
        self.bells.0[self.shard.index()].0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.inboxes.iter().any(|inbox| !inbox.is_empty())
            || self.outboxes.iter().any(|outbox| !outbox.waiting.is_empty())
    }

    /// Says that it is awake. Whose letters were taken last comes last now.
    pub fn awake(&mut self) {
        self.at = (self.at + 1) % self.inboxes.len();
        self.bells.0[self.shard.index()].0.store(false, Ordering::Relaxed);
    }
}

impl<T> Outbox<T> {
    fn push_waiting(&mut self) {
        while let Some(letter) = self.waiting.pop_front() {
            if let Err(PushError::Full(letter)) = self.ring.push(letter) {
                self.waiting.push_front(letter);
                return;
            }
            self.posted = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_keep_their_order_beyond_the_rings_room() {
        let mut boxes = mailboxes::<usize>(2);
        let mut b = boxes.pop().expect("two");
        let mut a = boxes.pop().expect("two");
        (0..3 * RING_LETTERS).for_each(|n| a.post(ShardId(1), n));
        let mut got = Vec::new();
        while got.len() < 3 * RING_LETTERS {
            got.extend(std::iter::from_fn(|| b.take()));
            a.ring(|_| {});
        }
        assert!(got.iter().copied().eq(0..3 * RING_LETTERS));
        assert!(!a.sleep());
    }

    #[test]
    fn rings_are_as_large_as_is_said() {
        for shards in [1, 2, 7] {
            let boxes = mailboxes::<[u64; 3]>(shards);
            let letters = boxes.iter().flat_map(|one| &one.outboxes).map(|out| out.ring.buffer().capacity());
            assert_eq!(letters.sum::<usize>() as u64 * 24, ring_bytes::<[u64; 3]>(shards.into()));
        }
    }

    #[test]
    fn one_that_always_has_more_does_not_keep_out_the_others() {
        let mut boxes = mailboxes::<usize>(3);
        boxes[1].post(ShardId(2), 1);
        for _ in 0..3 {
            (0..4).for_each(|_| boxes[0].post(ShardId(2), 0));
            boxes[2].awake();
            let taken: Vec<usize> = (0..4).filter_map(|_| boxes[2].take()).collect();
            if taken.contains(&1) {
                return;
            }
        }
        panic!("the second one's letter is never taken");
    }

    #[test]
    fn only_sleepers_are_woken() {
        let mut boxes = mailboxes::<u8>(3);
        assert!(!boxes[1].sleep());
        boxes[0].post(ShardId(1), 1);
        boxes[0].post(ShardId(2), 1);
        let mut woken = Vec::new();
        boxes[0].ring(|shard| woken.push(shard));
        assert_eq!(woken, [ShardId(1)]);
        boxes[0].ring(|shard| woken.push(shard));
        assert_eq!(woken, [ShardId(1)], "once");
        assert!(boxes[1].sleep(), "there is mail");
    }

    #[test]
    fn a_sleeper_is_woken_once() {
        let mut boxes = mailboxes::<u8>(3);
        assert!(!boxes[1].sleep());
        let mut woken = 0;
        for from in [0, 0, 2] {
            boxes[from].post(ShardId(1), 1);
            boxes[from].ring(|_| woken += 1);
        }
        assert_eq!(woken, 1, "it does not wake twice from one sleep");
        boxes[1].awake();
        assert!(std::iter::from_fn(|| boxes[1].take()).count() == 3 && !boxes[1].sleep());
        boxes[2].post(ShardId(1), 1);
        boxes[2].ring(|_| woken += 1);
        assert_eq!(woken, 2, "the next sleep is another one");
    }

    #[test]
    fn two_threads_never_miss_each_other() {
        // Ping-pong by park and unpark: a lost wake-up would hang it.
        let mut boxes = mailboxes::<u32>(2);
        let mut b = boxes.pop().expect("two");
        let mut a = boxes.pop().expect("two");
        let main = std::thread::current();
        let echo = std::thread::spawn(move || {
            loop {
                if !b.sleep() {
                    std::thread::park();
                }
                b.awake();
                while let Some(n) = b.take() {
                    b.post(ShardId(0), n);
                    b.ring(|_| main.unpark());
                    if n == 0 {
                        return;
                    }
                }
            }
        });
        for n in (0..20_000).rev() {
            a.post(ShardId(1), n);
            a.ring(|_| echo.thread().unpark());
            loop {
                if let Some(back) = a.take() {
                    assert_eq!(back, n);
                    break;
                }
                if !a.sleep() {
                    std::thread::park();
                }
                a.awake();
            }
        }
        echo.join().expect("the echo ends");
    }
}
