//! Plans over machines of several shapes: what must be true of all of them.

mod trees;

use std::collections::HashMap;

use postlane_hw::driver::{DriverSetting, Facts, Offload, Queues, Spread};
use postlane_hw::{
    Backend, CpuSet, Goal, Machine, Nic, PlanError, Setting, Tuning, Wanted, XdpAbility, show, show_tuning,
    tune,
};
use proptest::prelude::*;
use trees::{isolating, laptop, large, small, two_sockets};

fn machines(name: &str) -> Vec<Machine> {
    let named = |shape: &str| format!("{name}-{shape}");
    vec![
        large(&named("large")).machine(),
        small(&named("small")).machine(),
        laptop(&named("laptop")).machine(),
        isolating(&named("isolating")).machine(),
        two_sockets(&named("sockets"), "0-7").machine(),
    ]
}

fn goal(machine: &Machine, backend: Backend, wanted: Wanted) -> Goal {
    let nics = match backend {
        Backend::Uring => Vec::new(),
        Backend::Xdp => machine.nics.iter().map(|nic| nic.name.clone()).take(1).collect(),
    };
    Goal { backend, nics, queues: None, wanted, ports: 61_000..=65_535 }
}

/// What a file is to hold, by its path.
fn files(tuning: &Tuning) -> HashMap<&str, &str> {
    let files = tuning.steps.iter().filter_map(|step| match &step.setting {
        Setting::File { path, text } => Some((path.as_str(), text.as_str())),
        Setting::Driver { .. } => None,
    });
    files.collect()
}

/// Everything that is true of a plan, whatever the machine and the goal.
fn check(machine: &Machine, goal: &Goal) {
    let tuning = tune(machine, goal).expect("a plan");
    let files = files(&tuning);
    assert_eq!(
        files.len(),
        tuning.steps.len(),
        "nothing is set twice, and nothing but files without drivers"
    );
    let cpus: CpuSet = tuning.shards.iter().map(|shard| shard.place.cpu).collect();
    let cores: CpuSet = tuning.shards.iter().map(|shard| shard.place.core).collect();
    let usable: CpuSet =
        machine.cpus.iter().filter(|cpu| machine.allowed.contains(cpu.id)).map(|cpu| cpu.core).collect();
    if !matches!(goal.wanted, Wanted::Cpus(_)) {
        assert_eq!(
            cores.len(),
            usable.len().min(tuning.shards.len()),
            "a core for each shard, while there are some"
        );
    }
    let unused = machine.isolated.without(&cpus);
    for nic in machine.nics_of(&goal.nics) {
        check_queues(&tuning, nic, goal, &files);
    }
    for irq in machine.nics.iter().flat_map(|nic| &nic.irqs) {
        let path = format!("proc/irq/{}/smp_affinity_list", irq.number);
        let planned: CpuSet =
            files.get(path.as_str()).map_or(irq.cpus.clone(), |text| text.parse().expect("a list"));
        assert!(planned.intersection(&unused).is_empty(), "IRQ {} interrupts what is isolated", irq.number);
        assert!(!planned.is_empty(), "IRQ {} is served by somebody", irq.number);
    }
    let reserved = files.get("proc/sys/net/ipv4/ip_local_reserved_ports").copied();
    let has_list = machine.system.reserved_ports.is_some();
    let expected = (goal.backend == Backend::Xdp && has_list).then_some("8080,61000-65535");
    assert_eq!(reserved, expected);
}

fn check_queues(tuning: &Tuning, nic: &Nic, goal: &Goal, files: &HashMap<&str, &str>) {
    let has_near = tuning.shards.iter().any(|shard| Some(shard.place.node) == nic.node);
    let mut seen = Vec::new();
    for (number, shard) in tuning.shards.iter().enumerate() {
        for queue in shard.queues.iter().filter(|queue| queue.nic == nic.name) {
            seen.push(queue.queue);
            match goal.backend {
                Backend::Xdp => assert_eq!(queue.queue as usize % tuning.shards.len(), number),
                Backend::Uring => {
                    assert!(!has_near || nic.node == Some(shard.place.node), "near to the device")
                }
            }
            let of_queue = nic.irqs.iter().filter(|irq| irq.queue == Some(queue.queue));
            assert!(of_queue.map(|irq| irq.number).eq(queue.irqs.iter().copied()));
            for irq in &queue.irqs {
                let path = format!("proc/irq/{irq}/smp_affinity_list");
                assert_eq!(files[path.as_str()], shard.place.cpu.to_string(), "with the shard");
            }
            let path = format!("sys/class/net/{}/queues/tx-{}/xps_cpus", nic.name, queue.queue);
            let senders = CpuSet::from_mask(files[path.as_str()]).expect("a mask");
            assert!(senders.contains(shard.place.cpu), "a shard sends by the queue it receives by");
        }
    }
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..nic.rx_queues), "each queue has one shard");
}

#[test]
fn whatever_the_machine_the_plan_holds_together() {
    for machine in machines("all") {
        for backend in [Backend::Uring, Backend::Xdp] {
            if backend == Backend::Xdp && machine.nics.is_empty() {
                continue;
            }
            let wanted =
                [Wanted::Auto, Wanted::Count(1), Wanted::Count(3), Wanted::Count(40), Wanted::Count(200)];
            for wanted in wanted {
                check(&machine, &goal(&machine, backend, wanted));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Machines that nobody has built: cards of any number of queues on any node, shards anywhere.
    #[test]
    fn any_machine_is_planned_for(
        shape in 0_usize..5,
        queues in proptest::collection::vec((0_u32..40, proptest::option::of(0_u32..3)), 0..4),
        shards in 1_usize..150,
        is_xdp in any::<bool>(),
    ) {
        thread_local!(static MACHINES: Vec<Machine> = machines("any"));
        let mut machine = MACHINES.with(|machines| machines[shape].clone());
        let mut irqs = 1_000;
        machine.nics = queues.iter().enumerate().map(|(n, &(queues, node))| {
            let irq = |queue: u32| {
                irqs += 1;
                postlane_hw::Irq {
                    number: irqs,
                    name: String::new(),
                    cpus: machine.allowed.clone(),
                    queue: (queue < queues).then_some(queue),
                }
            };
            Nic {
                name: format!("eth{n}"),
                driver: Some("ice".to_owned()),
                node,
                state: "up".to_owned(),
                rx_queues: queues,
                tx_queues: queues,
                xps: (0..queues).map(|_| CpuSet::default()).collect(),
                irqs: (0..=queues).map(irq).collect(),
                ..Nic::default()
            }
        }).collect();
        let backend = if is_xdp && !machine.nics.is_empty() { Backend::Xdp } else { Backend::Uring };
        check(&machine, &goal(&machine, backend, Wanted::Count(shards)));
    }
}

#[test]
fn each_card_of_a_large_machine_is_served_on_its_node() {
    let machine = large("nodes").machine();
    let both = tune(&machine, &goal(&machine, Backend::Uring, Wanted::Auto)).expect("a plan");
    let cpus_of = |nic: &str| -> CpuSet {
        let of_nic = both.shards.iter().filter(|shard| shard.queues.iter().any(|queue| queue.nic == nic));
        of_nic.map(|shard| shard.place.cpu).collect()
    };
    assert_eq!(cpus_of("eth0").to_string(), "0-31", "cores, not their siblings");
    assert_eq!(cpus_of("eth1").to_string(), "32-63");
    // Bypass by the second card: its node comes first.
    let second = Goal { nics: vec!["eth1".to_owned()], ..goal(&machine, Backend::Xdp, Wanted::Count(32)) };
    let bypass = tune(&machine, &second).expect("a plan");
    assert!(bypass.shards.iter().all(|shard| shard.place.node == 1 && shard.queues.len() == 1));
    assert_eq!(bypass.shards[0].place.cpu, 32);
    let text = show_tuning(&bypass);
    assert!(text.starts_with("shard 0    CPU 32   core 32   node 1: eth1 queue 0 (IRQ 200)\n"), "{text}");
    let huge = "sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages";
    assert_eq!(files(&bypass)[huge], "256", "for the frames of 32 queues, where the shards are");
    let other = huge.replace("node1", "node0");
    assert!(!files(&bypass).contains_key(other.as_str()), "no shard is there");
    let second = Goal { wanted: Wanted::Cpus(vec![0, 32]), ..second };
    let bypass = tune(&machine, &second).expect("a plan");
    let pages = [&other, huge].map(|path| files(&bypass)[path].to_owned());
    assert_eq!(pages, ["128", "128"], "each shard's on its own node");
    assert_eq!(machine.nics[1].xdp, XdpAbility::ZeroCopy);
}

#[test]
fn a_vlan_is_planned_by_the_interface_that_carries_it() {
    let tree = large("vlan");
    tree.file("sys/devices/virtual/net/eth1.100/uevent", "DEVTYPE=vlan\nINTERFACE=eth1.100\nIFINDEX=9\n");
    tree.file("sys/devices/virtual/net/eth1.100/operstate", "up\n");
    tree.link("sys/devices/virtual/net/eth1.100/lower_eth1", "../../../pci0/0000:af:00.0/net/eth1");
    tree.link("sys/class/net/eth1.100", "../../devices/virtual/net/eth1.100");
    let machine = tree.machine();
    assert!(show(&machine).contains("eth1.100 (no device, up), VLAN of eth1\n"), "{}", show(&machine));
    let by = |nic: &str| {
        let goal = goal(&machine, Backend::Xdp, Wanted::Count(32));
        tune(&machine, &Goal { nics: vec![nic.to_owned()], ..goal }).expect("a plan")
    };
    assert_eq!(by("eth1.100"), by("eth1"));
    assert_ne!(by("eth1.100"), by("eth0"));
    let all = tune(&machine, &goal(&machine, Backend::Uring, Wanted::Auto)).expect("a plan");
    assert!(files(&all).keys().all(|path| !path.contains("eth1.100")), "by itself it has nothing to tune");
}

#[test]
fn only_the_queues_that_are_named_are_planned() {
    let machine = large("named").machine();
    let some = Goal { queues: Some(vec![7, 3, 5]), ..goal(&machine, Backend::Xdp, Wanted::Count(2)) };
    let tuning = tune(&machine, &some).expect("a plan");
    let queues = |shard: usize| tuning.shards[shard].queues.iter().map(|q| q.queue).collect::<Vec<_>>();
    assert_eq!((queues(0), queues(1)), (vec![7, 5], vec![3]), "dealt out in the order they are named");
    let files = files(&tuning);
    assert_eq!(files["proc/irq/103/smp_affinity_list"], "1");
    assert_eq!(files["proc/irq/105/smp_affinity_list"], "0");
    assert!(!files.contains_key("proc/irq/104/smp_affinity_list"), "somebody else's");
    assert!(tuning.steps.iter().all(|step| !step.setting.to_string().starts_with("ethtool -L")));
}

#[test]
fn fewer_queues_than_shards_are_spread_in_software_but_not_past_the_kernel() {
    let machine = small("steering").machine();
    let uring = tune(&machine, &goal(&machine, Backend::Uring, Wanted::Auto)).expect("a plan");
    let kernel = files(&uring);
    assert_eq!(kernel["sys/class/net/eth0/queues/rx-0/rps_cpus"], "5", "shards 0 and 2");
    assert_eq!(kernel["sys/class/net/eth0/queues/rx-1/rps_cpus"], "a");
    assert_eq!(kernel["sys/class/net/eth0/queues/tx-1/xps_cpus"], "a");
    assert_eq!(kernel["proc/irq/38/smp_affinity_list"], "0", "input.0");
    assert_eq!(kernel["proc/irq/41/smp_affinity_list"], "1", "output.1");
    assert_eq!(kernel["sys/class/net/eth0/napi_defer_hard_irqs"], "2");
    assert_eq!(kernel["sys/devices/system/cpu/cpu3/cpufreq/scaling_governor"], "performance");
    let xdp = tune(&machine, &goal(&machine, Backend::Xdp, Wanted::Auto)).expect("a plan");
    let bypass = files(&xdp);
    assert_eq!(bypass["sys/class/net/eth0/queues/rx-0/rps_cpus"], "0");
    assert_eq!(bypass["sys/class/net/eth0/napi_defer_hard_irqs"], "2", "for both backends");
    let tree = small("locked");
    tree.file("proc/self/limits", "Max locked memory         8388608   9999999   bytes\n");
    let machine = tree.machine();
    let limited = tune(&machine, &goal(&machine, Backend::Xdp, Wanted::Auto)).expect("a plan");
    assert!(limited.notes.iter().any(|note| note.contains("take up to 32 MiB")), "{:?}", limited.notes);
    assert!(xdp.notes.iter().any(|note| note.contains("2 queues for 4 shards")), "{:?}", xdp.notes);
}

#[test]
fn isolated_cpus_are_left_alone_or_used_by_name() {
    let machine = isolating("apart").machine();
    let auto = tune(&machine, &goal(&machine, Backend::Uring, Wanted::Auto)).expect("a plan");
    assert_eq!(files(&auto)["proc/irq/54/smp_affinity_list"], "0-3", "the card's other interrupt too");
    let named = goal(&machine, Backend::Uring, Wanted::Cpus(vec![4, 5, 6, 7]));
    check(&machine, &named);
    let named = tune(&machine, &named).expect("a plan");
    assert_eq!(files(&named)["proc/irq/51/smp_affinity_list"], "5");
    assert!(!files(&named).contains_key("proc/irq/54/smp_affinity_list"), "none is without a shard");
}

#[test]
fn a_radio_is_left_alone() {
    let machine = laptop("radio").machine();
    let tuning = tune(&machine, &goal(&machine, Backend::Uring, Wanted::Auto)).expect("a plan");
    assert!(tuning.shards.iter().all(|shard| shard.queues.is_empty()));
    assert!(files(&tuning).keys().all(|path| !path.contains("wlan0") && !path.contains("irq")));
    assert!(tuning.notes.iter().any(|note| note.contains("no interface")), "{:?}", tuning.notes);
    let tree = laptop("faults");
    tree.file("proc/sys/kernel/io_uring_disabled", "2\n");
    tree.file("proc/4711/comm", "irqbalance\n");
    let machine = tree.machine();
    let tuning = tune(&machine, &goal(&machine, Backend::Uring, Wanted::Auto)).expect("a plan");
    assert_eq!(tuning.faults.len(), 2, "{:?}", tuning.faults);
}

#[test]
fn what_a_driver_can_do_is_planned() {
    let mut machine = large("driver").machine();
    let offload = |name: &str, on, fixed| Offload { name: name.to_owned(), on, fixed };
    machine.nics[0].facts = Facts {
        queues: Some(Queues { combined: 32, rx: 0, tx: 0 }),
        queues_max: Some(Queues { combined: 63, rx: 0, tx: 0 }),
        spread: Some(Spread { key: vec![0; 40], table: vec![0; 128], is_toeplitz: true }),
        offloads: vec![
            offload("tx-tcp-segmentation", false, false),
            offload("rx-gro", false, true),
            offload("rx-lro", true, false),
        ],
        ..Facts::default()
    };
    let drivers = |backend| {
        let goal = Goal { nics: vec!["eth0".to_owned()], ..goal(&machine, backend, Wanted::Count(8)) };
        let tuning = tune(&machine, &goal).expect("a plan");
        let told = tuning.steps.iter().filter(|step| matches!(step.setting, Setting::Driver { .. }));
        told.map(|step| step.setting.to_string()).collect::<Vec<_>>()
    };
    let queues = ["ethtool -L eth0 combined 8", "ethtool -X eth0 equal 8"];
    assert_eq!(drivers(Backend::Uring), [queues[0], queues[1], "ethtool -K eth0 tx-tcp-segmentation on"]);
    assert_eq!(drivers(Backend::Xdp), [queues[0], queues[1], "ethtool -K eth0 rx-lro off"]);
    let goal = Goal { nics: vec!["eth0".to_owned()], ..goal(&machine, Backend::Uring, Wanted::Auto) };
    let all = tune(&machine, &goal).expect("a plan");
    let first = DriverSetting::Queues(Queues { combined: 63, rx: 0, tx: 0 });
    assert_eq!(all.steps[0].setting, Setting::driver("eth0", first), "not more than there can be");
}

#[test]
fn what_cannot_be_planned_says_why() {
    let machine = large("which").machine();
    let base = goal(&machine, Backend::Uring, Wanted::Auto);
    let nowhere = Goal { nics: vec!["eth9".to_owned()], ..base.clone() };
    assert_eq!(tune(&machine, &nowhere), Err(PlanError::NoNic("eth9".to_owned())));
    let which = Goal { backend: Backend::Xdp, ..base };
    assert_eq!(tune(&machine, &which), Err(PlanError::WhichNic));
}
