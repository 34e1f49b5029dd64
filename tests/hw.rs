//! `postlane hw` as it is run: what it prints, what it sets, how it exits. On a tree of files.

#[path = "../hw/tests/trees/mod.rs"]
mod trees;

use std::process::{Command, Output};

use trees::{Tree, small};

fn hw(tree: &Tree, arguments: &str) -> (Option<i32>, String, String) {
    let output: Output = Command::new(env!("CARGO_BIN_EXE_postlane"))
        .arg("hw")
        .args(arguments.split(' '))
        .arg("--root")
        .arg(&tree.root)
        .output()
        .expect("the program runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_machine_is_planned_set_checked_and_brought_back() {
    let tree = small("cli");
    let (code, text, _) = hw(&tree, "plan");
    assert_eq!(code, Some(0));
    assert!(text.contains("shard 1    CPU 1    core 1    node 0: eth0 queue 1 (IRQ 40, 41)\n"), "{text}");
    let line = "  echo 1 > /proc/irq/40/smp_affinity_list  # now 0-3\n";
    assert!(text.contains(line), "{text}");

    let (code, text, _) = hw(&tree, "check");
    assert_eq!(code, Some(1));
    assert!(text.contains("off        an interrupt for every few packets."), "{text}");
    assert!(
        text.contains("           echo 2 > /sys/class/net/eth0/napi_defer_hard_irqs  # now 0\n"),
        "{text}"
    );
    let irqs = "echo 0 > /proc/irq/39/smp_affinity_list  # now 0-3\n           echo 1 > /proc/irq/40/smp_affinity_list";
    assert!(text.contains(irqs), "{text}");

    let (code, dry, _) = hw(&tree, "apply --dry-run");
    assert_eq!(code, Some(0));
    assert!(dry.contains("echo 1 > /proc/irq/40/smp_affinity_list  # now 0-3\n"), "{dry}");
    assert_eq!(tree.text("proc/irq/40/smp_affinity_list"), "0-3", "only printed");

    let (code, applied, _) = hw(&tree, "apply");
    assert_eq!(code, Some(0));
    assert_eq!(applied, dry.replace("# now", "# was"));
    assert_eq!(tree.text("proc/irq/40/smp_affinity_list"), "1");
    assert_eq!(hw(&tree, "apply").1, "# nothing to set\n");
    let (code, text, _) = hw(&tree, "check --json");
    assert_eq!(code, Some(0), "{text}");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&json["ok"], json["off"].as_array().map(Vec::len)), (&true.into(), Some(0)));
    // For the other backend something is missing.
    assert_eq!(hw(&tree, "check --backend xdp --interface eth0").0, Some(1));

    let (code, text, _) = hw(&tree, "revert --dry-run");
    assert!(
        code == Some(0) && text.contains("echo 0-3 > /proc/irq/40/smp_affinity_list  # now 1\n"),
        "{text}"
    );
    assert_eq!(tree.text("proc/irq/40/smp_affinity_list"), "1", "only printed");
    assert_eq!(hw(&tree, "revert").0, Some(0));
    assert_eq!(tree.text("proc/irq/40/smp_affinity_list"), "0-3");
    assert_eq!(hw(&tree, "revert").1, "# nothing to set\n");
}

#[test]
fn what_goes_wrong_has_its_exit_code() {
    let tree = small("cli-wrong");
    let (code, _, said) = hw(&tree, "plan --backend xdp --interface eth7");
    assert_eq!((code, said.contains("there is no interface eth7")), (Some(64), true), "{said}");
    assert_eq!(hw(&tree, "plan --shards 0").0, Some(64));
    assert_eq!(hw(&tree, "plan --config nowhere.toml").0, Some(78));
    std::fs::remove_file(tree.root.join("proc/self/status")).expect("a file");
    assert_eq!(hw(&tree, "show").0, Some(71));

    let tree = small("cli-fails");
    let affinity = tree.root.join("proc/irq/40/smp_affinity_list");
    std::fs::remove_file(&affinity).expect("a file");
    std::fs::create_dir(&affinity).expect("what cannot be written");
    let (code, done, said) = hw(&tree, "apply");
    assert_eq!(code, Some(71));
    assert!(said.contains("`echo 1 > /proc/irq/40/smp_affinity_list` failed: "), "{said}");
    assert!(done.contains("echo 0 > /proc/irq/38/smp_affinity_list  # was 0-3\n"), "{done}");
}

#[test]
fn a_configuration_says_what_to_tune_for() {
    let tree = small("cli-config");
    let config = "[xdp]\ninterface = \"eth0\"\nports = \"50000-50999\"\n";
    let rest = "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:2525\"\n[[pool]]\nname = \"p\"\n[[pool.upstream]]\nname = \
                \"u\"\naddress = \"127.0.0.1:2526\"\n[delivery]\nmode = \"through\"\n";
    tree.file("postlane.toml", &format!("shards = 2\nbackend = \"xdp\"\n{config}{rest}"));
    let file = tree.root.join("postlane.toml");
    let (code, text, said) = hw(&tree, &format!("plan --json --config {}", file.display()));
    assert_eq!(code, Some(0), "{said}");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json["shards"].as_array().map(Vec::len), Some(2));
    let commands = json["to_set"].as_array().expect("some");
    let reserved = "echo 8080,50000-50999 > /proc/sys/net/ipv4/ip_local_reserved_ports";
    assert!(commands.iter().any(|line| line["command"] == reserved), "{text}");
}
