//! Made-up machines, written out as the kernel would show them: what is found, and where shards go.

mod trees;

use std::path::Path;

use postlane_hw::{Machine, NoDrivers, PlanError, Wanted, discover, notes, order, plan, show};
use trees::{Tree, two_sockets};

fn placed(machine: &Machine, wanted: Wanted) -> Vec<u32> {
    plan(machine, &wanted, &[]).expect("a plan").iter().map(|place| place.cpu).collect()
}

#[test]
fn one_socket_without_smt() {
    let tree = Tree::new("plain", "0-3", 8 << 20);
    tree.topology("0-3", &[(0, 0, "0"), (1, 0, "1"), (2, 0, "2"), (3, 0, "3")]);
    tree.file(
        "proc/self/limits",
        "Limit   Soft   Hard   Units\nMax locked memory         8388608   9999999   bytes\n",
    );
    tree.file("proc/sys/kernel/io_uring_disabled", "2\n");
    let machine = tree.machine();
    assert_eq!(machine.hostname, "box.example.net");
    assert_eq!(machine.kernel, "6.12.0-test");
    assert_eq!((machine.memory_bytes, machine.usable_memory_bytes()), (8 << 30, 8 << 30));
    assert_eq!(machine.locked_memory_limit_bytes, Some(8 << 20));
    assert_eq!(machine.io_uring_disabled, Some(2));
    assert_eq!(placed(&machine, Wanted::Auto), [0, 1, 2, 3]);
    assert_eq!(placed(&machine, Wanted::Count(2)), [0, 1]);
    assert_eq!(placed(&machine, Wanted::Cpus(vec![3, 1])), [3, 1]);
    assert!(notes(&machine, &plan(&machine, &Wanted::Auto, &[]).expect("a plan")).is_empty());
    let text = show(&machine);
    assert!(text.contains("io_uring refused (kernel.io_uring_disabled = 2)"), "{text}");
    assert!(text.contains("socket 0, NUMA node 0\n  [ 0 ] [ 1 ] [ 2 ] [ 3 ]\n"), "{text}");
}

#[test]
fn two_sockets_with_smt_give_cores_before_siblings() {
    let tree = two_sockets("smt", "0-7");
    let machine = tree.machine();
    assert_eq!(order(&machine), [0, 1, 2, 3, 4, 5, 6, 7]);
    let places = plan(&machine, &Wanted::Auto, &[]).expect("a plan");
    assert_eq!((places[6].cpu, places[6].core, places[6].node), (6, 2, 1));
    let said = notes(&machine, &places);
    assert_eq!(said.len(), 2, "{said:?}");
    assert_eq!(said[0], "8 CPUs share 4 physical cores");
    let three = notes(&machine, &plan(&machine, &Wanted::Count(2), &[]).expect("a plan"));
    assert!(three.is_empty(), "two shards fit the cores of one node: {three:?}");
    let text = show(&machine);
    assert!(text.contains("socket 1, NUMA node 1\n  [ 2  6 ] [ 3  7 ]\n"), "{text}");
}

#[test]
fn siblings_numbered_side_by_side_still_come_last() {
    let tree = Tree::new("pairs", "0-3", 1 << 20);
    tree.topology("0-3", &[(0, 0, "0-1"), (1, 0, "0-1"), (2, 0, "2-3"), (3, 0, "2-3")]);
    let machine = tree.machine();
    assert_eq!(placed(&machine, Wanted::Count(2)), [0, 2]);
    assert_eq!(placed(&machine, Wanted::Count(3)), [0, 2, 1]);
    assert_eq!(placed(&machine, Wanted::Auto), [0, 2, 1, 3]);
}

#[test]
fn more_shards_than_cpus_go_round_with_a_note() {
    let tree = Tree::new("round", "0-1", 1 << 20);
    tree.topology("0-1", &[(0, 0, "0"), (1, 0, "1")]);
    let machine = tree.machine();
    assert_eq!(placed(&machine, Wanted::Count(5)), [0, 1, 0, 1, 0]);
    let places = plan(&machine, &Wanted::Count(5), &[]).expect("a plan");
    assert_eq!(notes(&machine, &places), ["5 shards share 2 CPUs"]);
}

#[test]
fn isolated_cpus_are_used_only_by_name() {
    let tree = Tree::new("isolated", "0-1", 1 << 20);
    tree.topology("0-3", &[(0, 0, "0"), (1, 0, "1"), (2, 0, "2"), (3, 0, "3")]);
    tree.file("sys/devices/system/cpu/isolated", "2-3,9\n");
    let machine = tree.machine();
    assert_eq!(machine.isolated.to_string(), "2-3");
    assert_eq!(placed(&machine, Wanted::Auto), [0, 1]);
    assert_eq!(placed(&machine, Wanted::Cpus(vec![2, 3])), [2, 3]);
    let said = notes(&machine, &plan(&machine, &Wanted::Auto, &[]).expect("a plan"));
    assert_eq!(said, ["isolated CPUs 2-3 have no shard: name them to use them"]);
    assert!(show(&machine).contains("isolated: 2-3"));
    // A cpuset that does not hold them takes them away.
    tree.file("proc/self/cgroup", "0::/mail.slice\n");
    tree.file("sys/fs/cgroup/mail.slice/cpuset.cpus.effective", "0-2\n");
    assert_eq!(tree.machine().isolated.to_string(), "2");
}

#[test]
fn a_container_has_what_it_is_given() {
    let tree = two_sockets("container", "2,6-7,100");
    tree.file("proc/self/cgroup", "1:name=systemd:/x\n0::/outer/inner\n");
    tree.file("sys/fs/cgroup/outer/memory.max", "1073741824\n");
    tree.file("sys/fs/cgroup/outer/inner/memory.max", "max\n");
    tree.file("sys/fs/cgroup/outer/inner/cpu.max", "150000 100000\n");
    tree.file("sys/fs/cgroup/outer/cpu.max", "max 100000\n");
    let machine = tree.machine();
    assert_eq!(machine.allowed.to_string(), "2,6-7");
    assert_eq!(machine.memory_limit_bytes, Some(1 << 30));
    assert_eq!(machine.usable_memory_bytes(), 1 << 30);
    assert_eq!(machine.cpu_quota, Some(1.5));
    assert_eq!(placed(&machine, Wanted::Auto), [2, 7, 6], "6 is the sibling of 2");
    let places = plan(&machine, &Wanted::Auto, &[]).expect("a plan");
    let quota = "the control group grants 1.5 CPUs to 3 shards: they will be stopped at times";
    assert_eq!(notes(&machine, &places), ["3 CPUs share 2 physical cores", quota]);
    let refused = plan(&machine, &Wanted::Cpus(vec![0, 2, 1]), &[]).expect_err("not its own");
    assert_eq!(refused.to_string(), "this process may not run on CPU 0-1: choose from 2,6-7");
    assert!(show(&machine).contains("[ 2  6 ] [(3) 7 ]"), "{}", show(&machine));
}

#[test]
fn what_cannot_be_planned_says_why() {
    let tree = Tree::new("refused", "9", 1 << 20);
    tree.topology("0-1", &[(0, 0, "0"), (1, 0, "1")]);
    let machine = tree.machine();
    assert_eq!(plan(&machine, &Wanted::Auto, &[]), Err(PlanError::NoCpus));
    assert_eq!(plan(&machine, &Wanted::Count(0), &[]), Err(PlanError::NoShards));
    assert_eq!(plan(&machine, &Wanted::Cpus(vec![]), &[]), Err(PlanError::NoShards));
    let tree = two_sockets("twice", "0-7");
    assert_eq!(plan(&tree.machine(), &Wanted::Cpus(vec![1, 2, 1]), &[]), Err(PlanError::Twice(1)));
}

#[test]
fn without_sysfs_the_allowed_cpus_are_all_there_is() {
    let machine = Tree::new("bare", "1-2", 1 << 20).machine();
    assert_eq!(
        machine.cpus.iter().map(|cpu| (cpu.id, cpu.core, cpu.node)).collect::<Vec<_>>(),
        [(1, 1, 0), (2, 2, 0)]
    );
    assert_eq!(placed(&machine, Wanted::Auto), [1, 2]);
    assert!(machine.nics.is_empty());
}

#[test]
fn nics_have_drivers_queues_and_interrupts() {
    let tree = Tree::new("nics", "0-1", 1 << 20);
    tree.topology("0-1", &[(0, 0, "0"), (1, 0, "1")]);
    let pci = "sys/devices/pci0/0000:00:01.0";
    tree.link("sys/class/net/eth1", "../../devices/pci0/0000:00:01.0/net/eth1");
    tree.link(&format!("{pci}/net/eth1/device"), "../..");
    tree.link(&format!("{pci}/driver"), "../../../bus/pci/drivers/ixgbe");
    tree.link(&format!("{pci}/subsystem"), "../../../bus/pci");
    tree.file(&format!("{pci}/numa_node"), "0\n");
    tree.file(&format!("{pci}/net/eth1/operstate"), "up\n");
    for queue in ["rx-0", "rx-1", "tx-0", "tx-1", "tx-2"] {
        tree.file(&format!("{pci}/net/eth1/queues/{queue}/xps_cpus"), "0\n");
    }
    for irq in [45, 44] {
        tree.file(&format!("{pci}/msi_irqs/{irq}"), "msix\n");
    }
    let virtio = "sys/devices/pci0/0000:00:02.0/virtio2";
    tree.link("sys/class/net/eth0", "../../devices/pci0/0000:00:02.0/virtio2/net/eth0");
    tree.link(&format!("{virtio}/net/eth0/device"), "../../../virtio2");
    tree.link(&format!("{virtio}/driver"), "../../../../bus/virtio/drivers/virtio_net");
    tree.link(&format!("{virtio}/subsystem"), "../../../../bus/virtio");
    tree.file("sys/devices/pci0/0000:00:02.0/msi_irqs/38", "msix\n");
    tree.file("sys/class/net/bonding_masters", "\n");
    let interrupts = "           CPU0       CPU1\n 38:  0  9 PCI-MSIX 1-edge  virtio2-input.0\n 44:  1  2 PCI-MSIX 0-edge  eth1-TxRx-0\nNMI:  0  0  Non-maskable interrupts\n";
    tree.file("proc/interrupts", interrupts);
    tree.file("proc/irq/44/smp_affinity_list", "0-1\n");
    let nics = tree.machine().nics;
    assert_eq!(nics.iter().map(|nic| nic.name.as_str()).collect::<Vec<_>>(), ["eth0", "eth1"]);
    let [eth0, eth1] = nics.as_slice() else { unreachable!("two, as just seen") };
    assert_eq!((eth0.driver.as_deref(), eth0.node), (Some("virtio_net"), None));
    assert_eq!(eth0.irqs[0].name, "virtio2-input.0");
    assert_eq!((eth1.driver.as_deref(), eth1.node, eth1.state.as_str()), (Some("ixgbe"), Some(0), "up"));
    assert_eq!((eth1.rx_queues, eth1.tx_queues), (2, 3));
    assert_eq!(eth1.irqs.iter().map(|irq| irq.number).collect::<Vec<_>>(), [44, 45]);
    assert_eq!((eth1.irqs[0].name.as_str(), eth1.irqs[0].cpus.to_string().as_str()), ("eth1-TxRx-0", "0-1"));
    let text = show(&tree.machine());
    assert!(
        text.contains("NIC        eth1 (ixgbe, up) on node 0: 2 receive and 3 transmit queues\n"),
        "{text}"
    );
    assert!(text.contains("IRQ 44 eth1-TxRx-0 on CPU 0-1\n") && !text.contains("IRQ 45"), "{text}");
}

#[test]
fn errors_name_the_file() {
    let nowhere = discover(Path::new("/nonexistent"), &NoDrivers).expect_err("no such root");
    assert!(nowhere.to_string().starts_with("cannot read /nonexistent/proc/self/status: "), "{nowhere}");
    let tree = Tree::new("garbled", "0-x", 1 << 20);
    let garbled = discover(&tree.root, &NoDrivers).expect_err("no list of CPUs");
    assert!(garbled.to_string().ends_with("proc/self/status has no usable `Cpus_allowed_list`"), "{garbled}");
}

#[test]
fn this_very_machine_can_be_read_and_planned() {
    let machine = discover(Path::new("/"), &NoDrivers).expect("the machine the test runs on");
    assert!(machine.memory_bytes > 0 && !machine.kernel.is_empty());
    let places = plan(&machine, &Wanted::Auto, &[]).expect("at least the CPU this runs on");
    assert_eq!(places.len(), machine.allowed.len());
    assert!(show(&machine).lines().count() >= 4);
    let json = serde_json::to_value(&machine).expect("plain data");
    assert_eq!(json["cpus"].as_array().map(Vec::len), Some(machine.cpus.len()));
}
