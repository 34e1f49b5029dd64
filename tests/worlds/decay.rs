//! Disks that do not give back what they were given: reads that fail, and bits that flip, while a shard runs and before it
//! starts again.

use std::time::Duration;

use postlane::disk::sim::Faults;

use crate::dice::Dice;
use crate::play::{Play, Turn};
use crate::upstream::find;

/// Trouble of this kind begins within the time of all other.
const SPAN_MS: usize = 20_000;
/// Octets that are looked for to find a message on the disk.
const NEEDLE: usize = 32;

/// Where a bit flips.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spot {
    /// Of a message's octets, wherever they lie.
    Message { number: usize, at: usize },
    /// Anything that was written: the so manieth octet that is not zero.
    Anywhere { nth: usize },
}

/// Drawn apart, so that the rest of a seed's world stays as it is.
pub(crate) fn draw(play: &mut Play, seed: u64) {
    let mut dice = Dice::new(seed ^ 0xdeca_11ed);
    if dice.chance(0.6) {
        return;
    }
    play.stage.decay.is_on = true;
    let start = play.now();
    let mut turns = Vec::new();
    let any = |dice: &mut Dice| start + Duration::from_millis(dice.below(SPAN_MS) as u64);
    for _ in 0..dice.below(4) {
        let (at, time) = (any(&mut dice), Duration::from_millis(dice.between(1, 8_000) as u64));
        turns.push((at, Turn::Unreadable(dice.pick(&[0.02, 0.3, 1.0]))));
        turns.push((at + time, Turn::Unreadable(0.0)));
    }
    for _ in 0..dice.below(7) {
        let spot = match dice.chance(0.7) {
            true => Spot::Message { number: dice.below(play.messages.len()), at: dice.below(1 << 20) },
            false => Spot::Anywhere { nth: dice.below(1 << 20) },
        };
        turns.push((any(&mut dice), Turn::Flip { spot, bit: dice.below(8) as u8 }));
    }
    // Right before some starts, too.
    let starts = play.turns.iter().filter(|(_, turn)| matches!(turn, Turn::Start { .. }));
    for (at, _) in starts {
        if dice.chance(0.3) {
            let spot = Spot::Anywhere { nth: dice.below(1 << 20) };
            turns.push((*at, Turn::Flip { spot, bit: dice.below(8) as u8 }));
        }
    }
    turns.append(&mut play.turns);
    turns.sort_by_key(|(at, _)| *at);
    play.turns = turns;
}

impl Play {
    pub(crate) fn set_unreadable(&mut self, chance: f64) {
        let platter = &self.stage.platter;
        platter.set_faults(Faults { read_error: chance, ..platter.faults() });
    }

    pub(crate) fn flip(&mut self, spot: Spot, bit: u8) {
        let platter = &self.stage.platter;
        let mut files: Vec<_> = platter.files();
        files.sort_unstable();
        let mut flips = Vec::new();
        let mut octets = 0;
        for (file, bytes) in files {
            let mut content = vec![0; bytes as usize];
            if platter.read(file, 0, &mut content).is_err() {
                continue;
            }
            match spot {
                Spot::Message { number, at } => {
                    let data = &self.messages[number].data;
                    let from = at % data.len().saturating_sub(NEEDLE).max(1);
                    let Some(needle) = data.get(from..from + NEEDLE) else { return };
                    flips.extend(find(&content, needle).map(|at| (file, at as u64)));
                }
                Spot::Anywhere { nth } => {
                    let written: Vec<usize> = (0..content.len()).filter(|at| content[*at] != 0).collect();
                    if nth >= octets && nth < octets + written.len() {
                        flips.push((file, written[nth - octets] as u64));
                    }
                    octets += written.len();
                }
            }
        }
        for (file, at) in flips {
            platter.flip(file, at, bit);
            self.stage.decay.flips += 1;
            if self.trace {
                println!("{:>12} flipped a bit of {file} at {at}", self.now().as_nanos());
            }
        }
    }
}
