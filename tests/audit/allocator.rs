//! An allocator that counts what a watched thread asks of it, and says where from.
#![allow(unsafe_code, reason = "`GlobalAlloc` is an unsafe trait; all is handed on to the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    Off,
    Counting,
    /// Notes the place of each as well.
    Tracing,
}

thread_local! {
    static WATCH: Cell<Watch> = const { Cell::new(Watch::Off) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static PLACES: RefCell<Vec<Backtrace>> = const { RefCell::new(Vec::new()) };
}

/// Places that are noted; each costs a walk over the stack.
const PLACES_MAX: usize = 256;

fn note() {
    let watch = WATCH.get();
    if watch == Watch::Off {
        return;
    }
    COUNT.set(COUNT.get() + 1);
    if watch == Watch::Tracing {
        // What the noting itself allocates does not count.
        WATCH.set(Watch::Off);
        PLACES.with_borrow_mut(|places| {
            if places.len() < PLACES_MAX {
                places.push(Backtrace::force_capture());
            }
        });
        WATCH.set(watch);
    }
}

// SAFETY: every call is handed on to the system's allocator with the caller's own promises.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise about `layout` is the one needed.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: the caller's promises about `pointer`, `layout` and `size` are those needed.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises about `pointer` and `layout` are those needed.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Allocations of this thread while `work` runs.
pub(crate) fn count(work: impl FnOnce()) -> u64 {
    watched(Watch::Counting, work)
}

/// Where this thread allocates while `work` runs: the product's own frames, the commonest first.
pub(crate) fn trace(work: impl FnOnce()) -> String {
    watched(Watch::Tracing, work);
    let places = PLACES.take();
    let mut counted: Vec<(usize, String)> = Vec::new();
    for place in &places {
        let own = own_frames(&place.to_string());
        match counted.iter_mut().find(|(_, known)| *known == own) {
            Some((count, _)) => *count += 1,
            None => counted.push((1, own)),
        }
    }
    counted.sort_by(|a, b| b.cmp(a));
    counted.iter().map(|(count, own)| format!("{count} of {}:\n{own}\n", places.len())).collect()
}

fn watched(watch: Watch, work: impl FnOnce()) -> u64 {
    let before = COUNT.get();
    WATCH.set(watch);
    work();
    WATCH.set(Watch::Off);
    COUNT.get() - before
}

/// The lines of a backtrace that are the product's, function and place.
fn own_frames(backtrace: &str) -> String {
    let lines: Vec<&str> = backtrace.lines().collect();
    let own = lines.windows(2).filter(|pair| {
        pair[1].trim_start().starts_with("at ") && pair[1].contains("src/") && !pair[1].contains("/rustc/")
    });
    own.map(|pair| format!("  {} {}\n", pair[0].trim(), pair[1].trim())).collect()
}
