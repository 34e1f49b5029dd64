//! What every `Net` promises, written once and run on each backend: `sim` in virtual time, `uring` against
//! ordinary sockets on the loopback, `xdp` against ordinary sockets behind a veth (where there may be one).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod cases;
mod churn;
mod ground;
#[path = "../network/mod.rs"]
mod network;
mod path_mtu;
mod refusals;
mod sim;
mod uring;
mod vlan;
mod world;
mod xdp;
mod xdp_accepts;

/// Runs each case on each ground.
macro_rules! contract {
    ($($case:ident),* $(,)?) => {
        mod on_sim {
            $(#[test] fn $case() { crate::cases::$case::<crate::sim::SimGround>() })*
        }
        mod on_choppy_sim {
            $(#[test] fn $case() { crate::cases::$case::<crate::sim::ChoppyGround>() })*
        }
        mod on_uring {
            $(#[test] fn $case() { crate::cases::$case::<crate::uring::UringGround>() })*
        }
        mod on_plain_uring {
            $(#[test] fn $case() { crate::cases::$case::<crate::uring::PlainGround>() })*
        }
        mod on_xdp {
            $(#[test] fn $case() { crate::xdp::if_there_is(crate::cases::$case::<crate::xdp::XdpGround>) })*
        }
        mod on_accepting_xdp {
            $(#[test] fn $case() { crate::xdp::if_there_is(crate::cases::$case::<crate::xdp::XdpAccepts>) })*
        }
    };
}

contract![
    accepts_receives_writes_and_closes,
    opens_and_is_told_of_the_peers_close,
    a_held_stream_outlives_its_peers_end,
    a_large_body_of_extents_arrives_exactly,
    writes_and_bodies_leave_in_order,
    marks_tell_what_was_taken,
    a_mark_needs_no_body,
    a_mark_is_told_before_the_rest_has_left,
    close_flushes_first,
    abort_drops_and_ends,
    a_reset_by_the_peer_ends_the_stream,
    bytes_before_a_peers_end_are_received,
    an_answer_to_the_last_bytes_still_leaves,
    a_refused_open_is_told,
    pause_stops_and_resume_continues,
    a_slow_reader_holds_sent_back,
    exhausted_buffers_pause_receiving_until_released,
    slots_are_reused_and_names_are_not,
    a_slot_rests_until_its_end_was_read,
    stale_names_do_nothing,
    unlisten_refuses_newcomers_and_keeps_streams,
    the_budget_of_events_is_kept,
    nothing_is_left_behind,
    any_mixture_keeps_every_promise,
];
