//! The fewest transactions in flight, on the whole machine; weighted: for its weight.

use super::Member;

pub(super) fn cost(member: &Member) -> f32 {
    member.load()
}

pub(super) fn weighted_cost(member: &Member) -> f32 {
    member.load() * member.inverse
}
