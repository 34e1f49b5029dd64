//! Setting a machine as planned and bringing back what was: on trees of files, with drivers that are made up.

mod trees;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use postlane_hw::driver::{DriverSetting, Drivers, Facts, Offload, Queues, Rings, Spread};
use postlane_hw::{Backend, Goal, Hands, NoDrivers, Step, Wanted, discover, tune};
use trees::{Tree, small};

/// A driver whose card has as many queues as it is told, each with an interrupt of its own that comes and goes.
struct Card<'a> {
    tree: &'a Tree,
    state: PathBuf,
    facts: Mutex<Facts>,
    /// What it does not do, and with what it refuses.
    refuses: Option<(fn(&DriverSetting) -> bool, i32)>,
}

impl<'a> Card<'a> {
    fn new(tree: &'a Tree) -> Card<'a> {
        let facts = Facts {
            driver: Some("virtio_net".to_owned()),
            queues: Some(Queues { combined: 2, rx: 0, tx: 0 }),
            queues_max: Some(Queues { combined: 16, rx: 0, tx: 0 }),
            rings: Some(Rings { rx: 256, tx: 2048 }),
            rings_max: Some(Rings { rx: 4096, tx: 4096 }),
            offloads: vec![Offload { name: "tx-tcp-segmentation".to_owned(), on: false, fixed: false }],
            spread: Some(Spread {
                key: vec![7; 40],
                table: (0..128).map(|n| n % 2).collect(),
                is_toeplitz: true,
            }),
            coalescing: None,
        };
        let card = Card { tree, state: state_file(tree), facts: Mutex::new(facts), refuses: None };
        card.interrupts(2);
        card
    }

    fn interrupts(&self, queues: u32) {
        let pci = self.tree.root.join("sys/devices/pci0/0000:00:02.0");
        let _ = std::fs::remove_dir_all(pci.join("msi_irqs"));
        let _ = std::fs::remove_dir_all(pci.join("virtio0/net/eth0/queues"));
        let mut table = String::from("    CPU0\n");
        for queue in 0..queues {
            let irq = 60 + queue;
            self.tree.file(&format!("sys/devices/pci0/0000:00:02.0/msi_irqs/{irq}"), "msix\n");
            let affinity = format!("proc/irq/{irq}/smp_affinity_list");
            if !self.tree.root.join(&affinity).exists() {
                self.tree.file(&affinity, "0-3\n");
            }
            table += &format!(" {irq}:  0 PCI-MSIX {queue}-edge eth0-TxRx-{queue}\n");
            let queues = "sys/devices/pci0/0000:00:02.0/virtio0/net/eth0/queues";
            self.tree.file(&format!("{queues}/rx-{queue}/rps_cpus"), "0\n");
            self.tree.file(&format!("{queues}/tx-{queue}/xps_cpus"), "0\n");
        }
        for irq in 60 + queues..80 {
            let _ = std::fs::remove_dir_all(self.tree.root.join(format!("proc/irq/{irq}")));
        }
        self.tree.file("proc/interrupts", &table);
    }
}

impl Drivers for Card<'_> {
    fn facts(&self, nic: &str) -> Facts {
        assert_eq!(nic, "eth0", "the only one");
        self.facts.lock().expect("no panic before").clone()
    }

    fn set(&self, _: &str, value: &DriverSetting) -> io::Result<()> {
        if let Some((refuses, with)) = self.refuses
            && refuses(value)
        {
            return Err(io::Error::from_raw_os_error(with));
        }
        let mut facts = self.facts.lock().expect("no panic before");
        assert!(
            self.state.exists(),
            "what was before is kept before anything is set, and until all is brought back"
        );
        match value {
            DriverSetting::Queues(queues) => {
                facts.queues = Some(*queues);
                self.interrupts(queues.combined);
            }
            DriverSetting::Spread { table } => {
                let queues = facts.queues.map_or(0, |queues| queues.combined);
                if table.iter().any(|queue| *queue >= queues) {
                    return Err(io::Error::from_raw_os_error(EINVAL));
                }
                facts.spread.as_mut().expect("it has one").table.clone_from(table);
            }
            DriverSetting::Rings(rings) => facts.rings = Some(*rings),
            DriverSetting::Offload { on, .. } => facts.offloads[0].on = *on,
            DriverSetting::Coalescing(coalescing) => facts.coalescing = Some(*coalescing),
        }
        Ok(())
    }
}

const EINVAL: i32 = 22;
const EOPNOTSUPP: i32 = 95;

fn state_file(tree: &Tree) -> PathBuf {
    tree.root.join("run/postlane/hw-before.json")
}

fn goal() -> Goal {
    Goal {
        backend: Backend::Uring,
        nics: Vec::new(),
        queues: None,
        wanted: Wanted::Auto,
        ports: 61_000..=65_535,
    }
}

fn steps(tree: &Tree, drivers: &dyn Drivers) -> Result<Vec<Step>, String> {
    let machine = discover(&tree.root, drivers).map_err(|error| error.to_string())?;
    Ok(tune(&machine, &goal()).map_err(|error| error.to_string())?.steps)
}

/// All files of a tree and what they hold.
fn contents(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() {
            all.extend(contents(&entry.path()));
        } else if kind.is_file() {
            // The kernel's choices are written as words and read with all of them.
            let text = std::fs::read_to_string(entry.path()).expect("a text");
            let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
            all.insert(entry.path(), chosen.map_or(text.trim(), |(word, _)| word).to_owned());
        }
    }
    all
}

#[test]
fn what_is_applied_is_there_and_what_is_reverted_is_as_it_was() {
    let tree = small("apply");
    let (hands, state) = (Hands::new(&tree.root, &NoDrivers), state_file(&tree));
    let before = contents(&tree.root);
    let planned = steps(&tree, &NoDrivers).expect("a plan");
    let off = hands.differences(&planned).len();
    assert!(off > 10, "a machine as it comes: {off}");
    assert_eq!(contents(&tree.root), before, "to look is not to touch");

    let done = hands.apply(&state, &mut || steps(&tree, &NoDrivers)).expect("all can be written");
    assert_eq!(done.len(), off);
    assert_eq!(tree.text("proc/irq/40/smp_affinity_list"), "1");
    assert_eq!(tree.text("sys/class/net/eth0/napi_defer_hard_irqs"), "2");
    assert_eq!(tree.text("proc/sys/net/core/somaxconn"), "4096");
    assert!(hands.differences(&planned).is_empty());

    let (applied, kept) = (contents(&tree.root), std::fs::read_to_string(&state).expect("what was before"));
    assert_eq!(hands.apply(&state, &mut || steps(&tree, &NoDrivers)).expect("nothing to do"), []);
    assert_eq!(contents(&tree.root), applied);
    // Somebody else turns one back, and it is applied again: the first value is the one that is kept.
    tree.file("proc/sys/net/core/somaxconn", "256\n");
    assert_eq!(hands.apply(&state, &mut || steps(&tree, &NoDrivers)).expect("one to do").len(), 1);
    assert_eq!(std::fs::read_to_string(&state).expect("still there"), kept);

    assert_eq!(hands.to_revert(&state).expect("a file").len(), off);
    assert_eq!(hands.revert(&state).expect("all can be written").len(), off);
    assert_eq!(contents(&tree.root), before);
    assert!(!state.exists());
    assert_eq!(hands.revert(&state).expect("nothing to do"), []);
}

#[test]
fn interrupts_that_come_with_more_queues_are_placed_too() {
    let tree = small("queues");
    let card = Card::new(&tree);
    let (hands, state) = (Hands::new(&tree.root, &card), state_file(&tree));
    let (before, facts) = (contents(&tree.root), card.facts("eth0"));
    let done = hands.apply(&state, &mut || steps(&tree, &card)).expect("all can be set");
    let commands: Vec<String> = done.iter().map(|done| done.setting.to_string()).collect();
    assert_eq!(commands[..2], ["ethtool -L eth0 combined 4", "ethtool -X eth0 equal 4"], "{commands:?}");
    assert_eq!(tree.text("proc/irq/63/smp_affinity_list"), "3", "of a queue that was not there");
    assert_eq!(card.facts("eth0").rings, Some(Rings { rx: 1024, tx: 2048 }), "never made smaller");
    assert!(hands.differences(&steps(&tree, &card).expect("a plan")).is_empty());

    let back = hands.revert(&state).expect("all can be brought back");
    assert_eq!(card.facts("eth0"), facts);
    assert_eq!(contents(&tree.root), before);
    let gone = back.iter().filter(|done| done.was.is_none()).count();
    assert!(gone >= 2, "interrupts 62 and 63 are no more: {back:?}");
}

#[test]
fn a_step_that_fails_says_which_and_why_and_what_was_done() {
    let tree = small("fails");
    let mut card = Card::new(&tree);
    card.refuses = Some((|value| matches!(value, DriverSetting::Rings(_)), EOPNOTSUPP));
    let (hands, state) = (Hands::new(&tree.root, &card), state_file(&tree));
    let (before, facts) = (contents(&tree.root), card.facts("eth0"));
    let failed = hands.apply(&state, &mut || steps(&tree, &card)).expect_err("the driver refuses");
    let said = failed.to_string();
    assert!(said.starts_with("`ethtool -G eth0 rx 1024 tx 2048` failed: "), "{said}");
    assert!(said.contains("the driver cannot do it"), "{said}");
    assert!(failed.done.len() > 4, "{said}");
    assert!(said.ends_with(&format!("; {} set before it", failed.done.len())), "{said}");
    // What was done can be undone, though the driver goes on refusing.
    hands.revert(&state).expect("only what was set");
    assert_eq!((card.facts("eth0"), contents(&tree.root)), (facts, before));
}

#[test]
fn what_the_kernel_takes_and_does_not_do_is_noticed() {
    let tree = small("deaf");
    let deaf = tree.root.join("proc/sys/net/core/somaxconn");
    std::fs::remove_file(&deaf).expect("a file");
    std::os::unix::fs::symlink("/dev/null", &deaf).expect("a link");
    let hands = Hands::new(&tree.root, &NoDrivers);
    let mut step = || {
        let setting = postlane_hw::Setting::file("proc/sys/net/core/somaxconn", 4096);
        Ok(vec![Step { setting, cost: String::new() }])
    };
    let failed = hands.apply(&state_file(&tree), &mut step).expect_err("nothing holds it");
    assert!(failed.to_string().contains("what is there now is nothing"), "{failed}");
    // And what is not there is not made.
    let mut step = || {
        let setting = postlane_hw::Setting::file("proc/sys/net/core/nonsense", 1);
        Ok(vec![Step { setting, cost: String::new() }])
    };
    let failed = hands.apply(&state_file(&tree), &mut step).expect_err("no such file");
    assert!(failed.to_string().contains("echo 1 > /proc/sys/net/core/nonsense"), "{failed}");
    assert!(!tree.root.join("proc/sys/net/core/nonsense").exists());
}

#[test]
fn what_was_before_an_earlier_start_is_not_brought_back() {
    let tree = small("boots");
    let (hands, state) = (Hands::new(&tree.root, &NoDrivers), state_file(&tree));
    hands.apply(&state, &mut || steps(&tree, &NoDrivers)).expect("all can be written");
    let applied = contents(&tree.root.join("proc/irq"));
    tree.file("proc/sys/kernel/random/boot_id", "another\n");
    assert_eq!(hands.revert(&state).expect("nothing to do"), []);
    assert_eq!(contents(&tree.root.join("proc/irq")), applied);
    assert!(!state.exists());
    tree.file("run/postlane/hw-before.json", "{}\n");
    let failed = hands.revert(&state).expect_err("none of ours");
    assert!(failed.to_string().contains("hw-before.json: missing field"), "{failed}");
}
