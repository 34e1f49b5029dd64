//! The kernel's own drivers, asked and told: on a veth in a network namespace that this makes and removes. Needs root;
//! where it may not have that it says so.

use std::path::Path;
use std::process::Command;

use postlane_hw::driver::{DriverSetting, Drivers, Queues};
use postlane_hw::{Backend, Ethtool, Goal, Hands, Step, Wanted, XdpAbility, discover, tune};

/// Set where the test runs within its namespace.
const INSIDE: &str = "POSTLANE_HW_NAMESPACE";

/// A namespace, gone when dropped.
struct Namespace(String);

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("`ip {arguments}`: {said}")) }
}

/// A namespace with a veth `hw0` of four queues.
fn namespace() -> Result<Namespace, String> {
    let name = format!("postlane-hw-{}", std::process::id());
    ip(&format!("netns add {name}"))?;
    let namespace = Namespace(name);
    let name = &namespace.0;
    let veth = "numtxqueues 4 numrxqueues 4";
    ip(&format!("-n {name} link add hw0 {veth} type veth peer name hw1 {veth}"))?;
    ip(&format!("-n {name} link set hw0 up"))?;
    ip(&format!("-n {name} link set hw1 up"))?;
    Ok(namespace)
}

#[test]
fn a_veth_is_asked_told_and_brought_back() {
    if std::env::var_os(INSIDE).is_some() {
        return within();
    }
    let namespace = match namespace() {
        Ok(namespace) => namespace,
        Err(why) => return eprintln!("skipped: no network namespace to try it in: {why}"),
    };
    // `ip netns exec` also shows the namespace's interfaces in /sys.
    let output = Command::new("ip")
        .args(["netns", "exec", &namespace.0])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "a_veth_is_asked_told_and_brought_back", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("ip, which has just worked");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn within() {
    let facts = Ethtool.facts("hw0");
    assert_eq!(facts.driver.as_deref(), Some("veth"));
    let four = Queues { combined: 0, rx: 4, tx: 4 };
    assert_eq!((facts.queues, facts.queues_max), (Some(four), Some(four)));
    assert_eq!((facts.rings, &facts.spread), (None, &None), "a veth has none");
    let offload = |name: &str| facts.offload(name).map(|offload| (offload.on, offload.fixed));
    assert_eq!(offload("tx-tcp-segmentation"), Some((true, false)));
    assert_eq!(offload("tx-generic-segmentation"), Some((true, false)));
    assert_eq!(offload("rx-gro"), Some((false, false)));
    assert!(offload("rx-lro").is_none_or(|(_, fixed)| fixed), "a veth joins nothing");
    assert_eq!(Ethtool.facts("nonsense"), Default::default());

    let two = DriverSetting::Queues(Queues { rx: 2, tx: 2, ..four });
    Ethtool.set("hw0", &two).expect("fewer than there may be");
    assert_eq!(Ethtool.facts("hw0").now(&two), Some(two));
    Ethtool.set("hw0", &DriverSetting::Queues(four)).expect("all of them again");
    let five = DriverSetting::Queues(Queues { rx: 5, ..four });
    let refused = Ethtool.set("hw0", &five).expect_err("more than there may be");
    assert!(refused.raw_os_error().is_some(), "the driver's word: {refused}");

    planned();
}

/// The way of `apply` and `revert`, on what is of this interface only.
fn planned() {
    let goal = Goal {
        backend: Backend::Uring,
        nics: vec!["hw0".to_owned()],
        queues: None,
        wanted: Wanted::Auto,
        ports: 61_000..=65_535,
    };
    let root = Path::new("/");
    let state = std::env::temp_dir().join(format!("postlane-hw-before-{}.json", std::process::id()));
    let steps = || {
        let machine = discover(root, &Ethtool).map_err(|error| error.to_string())?;
        let nic = machine.nics.iter().find(|nic| nic.name == "hw0").ok_or("it is there")?;
        assert_eq!(nic.xdp, XdpAbility::Native);
        let tuning = tune(&machine, &goal).map_err(|error| error.to_string())?;
        Ok(tuning.steps.into_iter().filter(|step| step.setting.to_string().contains("hw0")).collect())
    };
    let hands = Hands::new(root, &Ethtool);
    let before: Vec<Step> = steps().expect("a plan");
    let was: Vec<String> =
        before.iter().map(|step| hands.now(&step.setting).expect("it can be read").to_string()).collect();
    let off = hands.differences(&before).len();
    let done = hands.apply(&state, &mut || steps()).expect("all can be set");
    assert!(off >= 3 && done.len() == off, "deferred interrupts and GRO, at least: {done:?}");
    assert!(hands.differences(&steps().expect("a plan")).is_empty());
    assert_eq!(Ethtool.facts("hw0").offload("rx-gro").map(|offload| offload.on), Some(true));
    assert_eq!(hands.revert(&state).expect("all can be brought back").len(), off);
    let is: Vec<String> =
        before.iter().map(|step| hands.now(&step.setting).expect("it can be read").to_string()).collect();
    assert_eq!(is, was);
    assert!(!state.exists());
}
