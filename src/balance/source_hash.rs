//! A sender's address keeps to its upstream, as long as that can be had.

use super::rendezvous::Seats;

pub(super) fn pick(seats: &Seats, key: u64, can_be_had: impl Fn(usize) -> bool) -> Option<usize> {
    seats.winner(key, can_be_had)
}
