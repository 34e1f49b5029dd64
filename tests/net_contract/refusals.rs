//! What the operating system refuses is told in words, with the remedy.

use std::net::TcpListener;
use std::process::Command;

use postlane::handle::ListenerId;
use postlane::net::Net;
use postlane::net::uring::{Error, Uring, UringOptions};
use postlane::sys::arena::Arenas;
use postlane::sys::ring_table::RingTable;

const CHILD: &str = "POSTLANE_TEST_CHILD";

fn uring(accepted_max: u32) -> Result<Uring, Error> {
    let options = UringOptions { accepted_max, opened_max: 10, receive_buffers: 4, ..Default::default() };
    Uring::new(options, Arenas::new(1, 8).unwrap(), RingTable::new(1))
}

/// Limits bind a whole process: the test runs itself again under a small one.
#[test]
fn too_few_files_is_said_with_both_numbers() {
    if std::env::var_os(CHILD).is_some() {
        assert!(uring(90).is_ok(), "100 files fit");
        let Err(error) = uring(110) else { panic!("120 files do not fit") };
        assert!(matches!(error, Error::TooFewFiles { needed: 120, limit: 100 }), "{error:?}");
        println!("{error}");
        return;
    }
    let own = std::env::current_exe().unwrap();
    let name = "refusals::too_few_files_is_said_with_both_numbers";
    // The soft limit is raised to the hard one by itself.
    let script = format!("ulimit -Sn 50; ulimit -Hn 100; exec {} --exact {name} --nocapture", own.display());
    let output = Command::new("sh").arg("-c").arg(script).env(CHILD, "1").output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{words}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(words.contains("room for 120 open files and may have 100"), "{words}");
    assert!(words.contains("LimitNOFILE="), "{words}");
}

#[test]
fn a_port_in_use_is_said() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = other.local_addr().unwrap();
    let error = uring(8).unwrap().listen(ListenerId(0), at).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().starts_with(&format!("{at} is in use")), "{error}");
}

#[test]
fn a_foreign_address_is_said() {
    let error = uring(8).unwrap().listen(ListenerId(0), "192.0.2.1:0".parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("192.0.2.1 is no address of this machine"), "{error}");
}

#[test]
fn features_are_said() {
    let words = uring(8).unwrap().features().to_string();
    assert!(words.starts_with("io_uring with "), "{words}");
    assert!(words.contains("single issuer, deferred completions, cooperative completions"), "{words}");
}
