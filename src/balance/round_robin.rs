//! One after the other; whoever has no room is passed over.

use super::{Member, Pick};

pub(super) fn pick(members: &[Member], eligible: impl Fn(usize, &Member) -> bool, last: usize) -> Pick {
    let n = members.len();
    let mut someone = false;
    for step in 1..=n {
        let i = last.wrapping_add(step) % n;
        if eligible(i, &members[i]) {
            if members[i].has_room {
                return Pick::Now(i);
            }
            someone = true;
        }
    }
    if someone { Pick::Wait } else { Pick::Nobody }
}
