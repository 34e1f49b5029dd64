//! Made-up machines, written out as the kernel would show them.
#![allow(dead_code, unreachable_pub, reason = "each test file uses some of it")]

use std::path::PathBuf;

use postlane_hw::{CpuSet, Machine, NoDrivers, discover};

/// A folder with kernel files, gone when dropped.
pub struct Tree {
    pub root: PathBuf,
}

impl Tree {
    /// The files every machine has. `name` keeps the tests of one process apart.
    pub fn new(name: &str, allowed: &str, memory_kilobytes: u64) -> Tree {
        let root = std::env::temp_dir().join(format!("postlane-hw-{}-{name}", std::process::id()));
        let tree = Tree { root };
        tree.file("proc/self/status", &format!("Name:\tpostlane\nCpus_allowed_list:\t{allowed}\n"));
        tree.file("proc/meminfo", &format!("MemTotal:       {memory_kilobytes} kB\nMemFree:  1 kB\n"));
        tree.file("proc/sys/kernel/osrelease", "6.12.0-test\n");
        tree.file("proc/sys/kernel/hostname", "box.example.net\n");
        tree
    }

    pub fn file(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder to write to");
        std::fs::write(path, text).expect("a file");
    }

    pub fn link(&self, path: &str, target: &str) {
        let path = self.root.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder to write to");
        std::os::unix::fs::symlink(target, path).expect("a link");
    }

    /// CPUs with their sockets (a node each) and siblings.
    pub fn topology(&self, online: &str, cpus: &[(u32, u32, &str)]) {
        self.file("sys/devices/system/cpu/online", &format!("{online}\n"));
        for (id, socket, siblings) in cpus {
            let topology = format!("sys/devices/system/cpu/cpu{id}/topology");
            self.file(&format!("{topology}/thread_siblings_list"), &format!("{siblings}\n"));
            self.file(&format!("{topology}/physical_package_id"), &format!("{socket}\n"));
        }
        let sockets: CpuSet = cpus.iter().map(|(_, socket, _)| *socket).collect();
        self.file("sys/devices/system/node/online", &format!("{sockets}\n"));
        for node in sockets.iter() {
            let cpus: CpuSet =
                cpus.iter().filter(|(_, socket, _)| *socket == node).map(|(id, ..)| *id).collect();
            self.file(&format!("sys/devices/system/node/node{node}/cpulist"), &format!("{cpus}\n"));
        }
    }

    pub fn machine(&self) -> Machine {
        discover(&self.root, &NoDrivers).expect("a whole tree")
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// Two sockets of two cores with two threads each, numbered as Linux does: first threads first.
pub fn two_sockets(name: &str, allowed: &str) -> Tree {
    let tree = Tree::new(name, allowed, 64 << 20);
    let cpus = [
        (0, 0, "0,4"),
        (1, 0, "1,5"),
        (2, 1, "2,6"),
        (3, 1, "3,7"),
        (4, 0, "0,4"),
        (5, 0, "1,5"),
        (6, 1, "2,6"),
        (7, 1, "3,7"),
    ];
    tree.topology("0-7", &cpus);
    tree
}

/// A made-up interface on the PCI bus.
pub struct Card<'a> {
    pub name: &'a str,
    /// Its place on the bus.
    pub slot: &'a str,
    pub driver: &'a str,
    pub node: Option<u32>,
    pub queues: u32,
    /// The interrupt of queue 0; the others follow.
    pub irq: u32,
    /// What the driver calls a queue's interrupt, with `#` for its number; several by `|`.
    pub irq_names: &'a str,
    /// CPUs that serve them so far.
    pub affinity: &'a str,
}

impl Tree {
    /// Puts cards in.
    pub fn cards(&self, cards: &[Card<'_>]) {
        let mut interrupts = String::from("           CPU0\nNMI:  0  Non-maskable interrupts\n");
        for card in cards {
            let pci = format!("sys/devices/pci0/{}", card.slot);
            let is_virtio = card.driver == "virtio_net";
            let device = if is_virtio { format!("{pci}/virtio0") } else { pci.clone() };
            let bus = if is_virtio { "virtio" } else { "pci" };
            let folder = format!("{device}/net/{}", card.name);
            self.link(&format!("sys/class/net/{}", card.name), &format!("../../../{folder}"));
            self.link(&format!("{folder}/device"), "../..");
            self.link(&format!("{device}/driver"), &format!("../drivers/{}", card.driver));
            self.link(&format!("{device}/subsystem"), &format!("../bus/{bus}"));
            self.file(
                &format!("{pci}/numa_node"),
                &card.node.map_or("-1\n".to_owned(), |node| format!("{node}\n")),
            );
            self.file(&format!("{folder}/operstate"), "up\n");
            self.file(&format!("{folder}/napi_defer_hard_irqs"), "0\n");
            self.file(&format!("{folder}/gro_flush_timeout"), "0\n");
            let mut irq = card.irq;
            for queue in 0..card.queues {
                self.file(&format!("{folder}/queues/rx-{queue}/rps_cpus"), "00000000,00000000\n");
                self.file(&format!("{folder}/queues/tx-{queue}/xps_cpus"), "00000000,00000001\n");
                for name in card.irq_names.split('|') {
                    let name = name.replace('#', &queue.to_string());
                    self.file(&format!("{pci}/msi_irqs/{irq}"), "msix\n");
                    self.file(&format!("proc/irq/{irq}/smp_affinity_list"), &format!("{}\n", card.affinity));
                    interrupts += &format!(" {irq}:  0 IR-PCI-MSIX-{} {queue}-edge {name}\n", card.slot);
                    irq += 1;
                }
            }
            self.file(&format!("{pci}/msi_irqs/{irq}"), "msix\n");
            self.file(&format!("proc/irq/{irq}/smp_affinity_list"), &format!("{}\n", card.affinity));
            interrupts += &format!(" {irq}:  0 IR-PCI-MSIX-{} 99-edge {}-config\n", card.slot, card.name);
        }
        self.file("proc/interrupts", &interrupts);
    }

    /// Settings of the whole machine, as distributions ship them.
    pub fn system(&self) {
        self.file("proc/sys/net/core/somaxconn", "128\n");
        self.file("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n");
        self.file("proc/sys/net/ipv4/ip_local_reserved_ports", "8080\n");
        self.file("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
        self.file("proc/sys/kernel/random/boot_id", "11111111-2222-3333-4444-555555555555\n");
        for cpu in self.machine().cpus {
            let folder = format!("sys/devices/system/cpu/cpu{}/cpufreq", cpu.id);
            self.file(&format!("{folder}/scaling_governor"), "powersave\n");
            self.file(&format!("{folder}/scaling_available_governors"), "performance powersave\n");
            let pages = format!("sys/devices/system/node/node{}/hugepages/hugepages-2048kB", cpu.node);
            self.file(&format!("{pages}/nr_hugepages"), "0\n");
            self.file(&format!("{pages}/free_hugepages"), "0\n");
        }
    }

    pub fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.root.join(path)).expect(path).trim().to_owned()
    }
}

/// Two sockets of 32 cores with two threads each, and on each a card of 32 queues.
pub fn large(name: &str) -> Tree {
    let tree = Tree::new(name, "0-127", 512 << 20);
    let siblings: Vec<String> = (0..64).map(|core| format!("{core},{}", core + 64)).collect();
    let cpus: Vec<(u32, u32, &str)> =
        (0..128).map(|cpu| (cpu, cpu % 64 / 32, siblings[cpu as usize % 64].as_str())).collect();
    tree.topology("0-127", &cpus);
    let card = |name, slot, node, irq| Card {
        name,
        slot,
        driver: "mlx5_core",
        node: Some(node),
        queues: 32,
        irq,
        irq_names: "mlx5_comp#@pci:0000:3b:00.0",
        affinity: "0-127",
    };
    tree.cards(&[card("eth0", "0000:3b:00.0", 0, 100), card("eth1", "0000:af:00.0", 1, 200)]);
    tree.system();
    tree
}

/// A virtual machine of four CPUs and a virtio card of two queues.
pub fn small(name: &str) -> Tree {
    let tree = Tree::new(name, "0-3", 4 << 20);
    tree.topology("0-3", &[(0, 0, "0"), (1, 0, "1"), (2, 0, "2"), (3, 0, "3")]);
    tree.cards(&[Card {
        name: "eth0",
        slot: "0000:00:02.0",
        driver: "virtio_net",
        node: None,
        queues: 2,
        irq: 38,
        irq_names: "virtio0-input.#|virtio0-output.#",
        affinity: "0-3",
    }]);
    tree.system();
    tree
}

/// A laptop: four cores, two of them with two threads, and a radio.
pub fn laptop(name: &str) -> Tree {
    let tree = Tree::new(name, "0-5", 16 << 20);
    let cpus = [(0, 0, "0-1"), (1, 0, "0-1"), (2, 0, "2-3"), (3, 0, "2-3"), (4, 0, "4"), (5, 0, "5")];
    tree.topology("0-5", &cpus);
    tree.cards(&[Card {
        name: "wlan0",
        slot: "0000:00:14.3",
        driver: "iwlwifi",
        node: None,
        queues: 1,
        irq: 130,
        irq_names: "iwlwifi:queue_#",
        affinity: "0-5",
    }]);
    tree.file("sys/devices/pci0/0000:00:14.3/net/wlan0/phy80211/name", "phy0\n");
    tree.system();
    tree
}

/// Eight CPUs of which half are isolated, and a card of four queues, whose interrupts go anywhere.
pub fn isolating(name: &str) -> Tree {
    let tree = Tree::new(name, "0-3", 32 << 20);
    let own: Vec<String> = (0..8).map(|cpu| cpu.to_string()).collect();
    let cpus: Vec<(u32, u32, &str)> = (0..8).map(|cpu| (cpu, 0, own[cpu as usize].as_str())).collect();
    tree.topology("0-7", &cpus);
    tree.file("sys/devices/system/cpu/isolated", "4-7\n");
    tree.cards(&[Card {
        name: "eth0",
        slot: "0000:01:00.0",
        driver: "ice",
        node: Some(0),
        queues: 4,
        irq: 50,
        irq_names: "ice-eth0-TxRx-#",
        affinity: "0-7",
    }]);
    tree.system();
    tree
}
