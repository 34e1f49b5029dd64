//! Weighted turns, smoothly: each pick moves an upstream on by 1 / weight, and the one that is furthest behind is
//! next, so that a heavy one's turns are spread evenly between the others' (stride scheduling).

use super::Member;

/// How far it is ahead.
pub(super) fn cost(member: &Member) -> f32 {
    member.pass as f32
}

/// It had its turn; where the turn is now. Whoever could not be had for a while does not make up for all of it.
pub(super) fn picked(member: &mut Member, turn: f64) -> f64 {
    let turn = if member.pass > turn { member.pass } else { turn };
    member.pass = turn + f64::from(member.inverse);
    turn
}
