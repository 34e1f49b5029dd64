//! Dialogue scripts: what clients and upstreams say, line by line, and what they must hear. `README.md` beside
//! this file says how they are written. Each runs in the simulator, and on io_uring and AF_XDP where it needs no long
//! wait (and where the machine lets tests have networks of their own).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

#[path = "../worlds/disk.rs"]
mod disk;
mod ground;
#[path = "../network/mod.rs"]
mod network;
mod run;
mod script;
#[path = "../worlds/stage.rs"]
#[allow(dead_code, reason = "it is made for the worlds")]
mod stage;

use std::fs;
use std::path::PathBuf;

use ground::{Ground, SimGround, UringGround, XdpBothGround, XdpGround};
use script::Script;

fn scripts() -> Vec<Script> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
    let only = std::env::var("POSTLANE_SCRIPT").unwrap_or_default();
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .filter(|path| path.to_string_lossy().contains(&only))
        .collect();
    paths.sort();
    paths.iter().map(|path| Script::read(path)).collect()
}

/// Runs them all, and names those that fail.
fn run_all<G: Ground>(scripts: &[Script]) {
    let mut failed = Vec::new();
    for script in scripts {
        if let Err(why) = run::run::<G>(script) {
            failed.push(why);
        }
    }
    assert!(failed.is_empty(), "{} of {}:\n\n{}", failed.len(), scripts.len(), failed.join("\n"));
}

#[test]
fn on_sim() {
    let scripts = scripts();
    run_all::<SimGround>(&scripts);
    println!("{} scripts on sim", scripts.len());
}

#[test]
fn on_uring() {
    let (scripts, long): (Vec<Script>, Vec<Script>) =
        scripts().into_iter().partition(|script| !script.is_for_sim_only());
    run_all::<UringGround>(&scripts);
    let long: Vec<&str> = long.iter().map(|script| script.name.as_str()).collect();
    println!(
        "{} scripts on io_uring; only on sim, because they wait for long: {}",
        scripts.len(),
        long.join(" ")
    );
}

#[test]
fn on_xdp() {
    if let Some(why) = XdpGround::absent() {
        println!("skipped: {why}");
        return;
    }
    let scripts: Vec<Script> = scripts().into_iter().filter(|script| !script.is_for_sim_only()).collect();
    run_all::<XdpGround>(&scripts);
    run_all::<XdpBothGround>(&scripts);
    println!("{} scripts on AF_XDP, to upstreams, and from clients too", scripts.len());
}
