//! Reading the machine from the kernel's files: sysfs (`Documentation/ABI/stable/sysfs-devices-system-cpu`,
//! `sysfs-devices-node`), procfs (proc(5)) and control groups (`Documentation/admin-guide/cgroup-v2.rst`).

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::driver::Drivers;
use crate::{Cpu, CpuSet, HugePages, Machine, System, nic, setting};

/// Reads the machine under `root`: `/` for the one this runs on, with the drivers of its interfaces.
///
/// Without `/sys` (some containers) the CPUs are those allowed to the process, each a core of its own on node 0.
///
/// # Errors
///
/// A file without which nothing can be planned (`proc/self/status`, `proc/meminfo`, `proc/sys/kernel/osrelease`)
/// cannot be read or does not say what it should; the error names it.
pub fn discover(root: &Path, drivers: &dyn Drivers) -> io::Result<Machine> {
    let status = read(root, "proc/self/status")?;
    let allowed: CpuSet = value_of(&status, "Cpus_allowed_list:")
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| unclear(root, "proc/self/status", "Cpus_allowed_list"))?;
    let memory_bytes = value_of(&read(root, "proc/meminfo")?, "MemTotal:")
        .and_then(|text| text.strip_suffix("kB")?.trim().parse::<u64>().ok())
        .and_then(|kilobytes| kilobytes.checked_mul(1024))
        .ok_or_else(|| unclear(root, "proc/meminfo", "MemTotal"))?;
    let online = parsed(root, "sys/devices/system/cpu/online").unwrap_or_else(|| allowed.clone());
    let groups = control_groups(root);
    let isolated: CpuSet = parsed(root, "sys/devices/system/cpu/isolated").unwrap_or_default();
    // The nearest group that says which CPUs its members may be pinned to.
    let pinnable = groups.iter().find_map(|group| parse_file::<CpuSet>(&group.join("cpuset.cpus.effective")));
    let isolated = isolated.intersection(&online);
    Ok(Machine {
        hostname: parsed(root, "proc/sys/kernel/hostname").unwrap_or_default(),
        kernel: read(root, "proc/sys/kernel/osrelease")?.trim().to_owned(),
        cpus: cpus(root, &online),
        allowed: allowed.intersection(&online),
        isolated: pinnable.map_or(isolated.clone(), |pinnable| isolated.intersection(&pinnable)),
        cpu_quota: groups.iter().filter_map(|group| cpu_quota(group)).reduce(f64::min),
        memory_bytes,
        memory_limit_bytes: groups.iter().filter_map(|group| parse_file(&group.join("memory.max"))).min(),
        locked_memory_limit_bytes: locked_memory_limit(root),
        io_uring_disabled: parsed(root, "proc/sys/kernel/io_uring_disabled"),
        system: system(root),
        nics: nic::all(root, drivers),
    })
}

fn cpus(root: &Path, online: &CpuSet) -> Vec<Cpu> {
    let nodes = nodes(root);
    let cpu = |id: u32| {
        let topology = format!("sys/devices/system/cpu/cpu{id}/topology");
        // The older name of the same file is the one every kernel still has.
        let siblings: Option<CpuSet> = parsed(root, &format!("{topology}/thread_siblings_list"));
        let first = siblings.and_then(|siblings| siblings.intersection(online).iter().next());
        let node = nodes.iter().find(|(_, cpus)| cpus.contains(id)).map_or(0, |(node, _)| *node);
        // Where packages are not known the kernel says -1.
        let socket = parsed(root, &format!("{topology}/physical_package_id")).unwrap_or(0);
        let frequency = format!("sys/devices/system/cpu/cpu{id}/cpufreq");
        let words = |file: &str| read(root, &format!("{frequency}/{file}")).unwrap_or_default();
        let governors = words("scaling_available_governors").split_whitespace().map(str::to_owned).collect();
        let governor = Some(words("scaling_governor").trim().to_owned()).filter(|name| !name.is_empty());
        Cpu { id, core: first.unwrap_or(id), socket, node, governor, governors }
    };
    online.iter().map(cpu).collect()
}

/// What is the same for all of the machine.
fn system(root: &Path) -> System {
    let range = read(root, "proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = range.split_whitespace().filter_map(|port| port.parse().ok());
    let reserved = read(root, "proc/sys/net/ipv4/ip_local_reserved_ports").ok();
    let huge = "sys/kernel/mm/transparent_hugepage/enabled";
    let pages = |(node, _): (u32, CpuSet)| {
        let folder = format!("sys/devices/system/node/node{node}/hugepages/hugepages-2048kB");
        let [total, free] =
            ["nr_hugepages", "free_hugepages"].map(|file| parsed(root, &format!("{folder}/{file}")));
        Some(HugePages { node, total: total?, free: free? })
    };
    System {
        somaxconn: parsed(root, "proc/sys/net/core/somaxconn"),
        local_ports: ends.next().zip(ends.next()),
        reserved_ports: reserved.map(|text| text.trim().to_owned()),
        transparent_huge_pages: read(root, huge).ok().map(|text| setting::chosen(&text).to_owned()),
        huge_pages: nodes(root).into_iter().filter_map(pages).collect(),
        irqbalance: runs(root, "irqbalance"),
    }
}

/// Whether a process of that name runs.
fn runs(root: &Path, name: &str) -> bool {
    let entries = std::fs::read_dir(root.join("proc")).into_iter().flatten().flatten();
    let mut processes =
        entries.filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()));
    processes
        .any(|entry| std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim() == name))
}

/// The NUMA nodes and their CPUs, by number.
fn nodes(root: &Path) -> Vec<(u32, CpuSet)> {
    let online: CpuSet = parsed(root, "sys/devices/system/node/online").unwrap_or_default();
    let cpus = |node: u32| parsed(root, &format!("sys/devices/system/node/node{node}/cpulist"));
    online.iter().filter_map(|node| Some((node, cpus(node)?))).collect()
}

/// The folders of this process's control group (version 2) and of those above it, nearest first.
fn control_groups(root: &Path) -> Vec<PathBuf> {
    let base = root.join("sys/fs/cgroup");
    let membership = read(root, "proc/self/cgroup").unwrap_or_default();
    let own = membership.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    // Seen from inside a container, a path may lead out of what is mounted: then only the mount's own root counts.
    let own = if own.split('/').any(|part| part == "..") { "" } else { own };
    let folder = base.join(own);
    folder.ancestors().take_while(|folder| folder.starts_with(&base)).map(Path::to_owned).collect()
}

/// `cpu.max`: microseconds of processor time granted in each period, and the period.
fn cpu_quota(group: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(group.join("cpu.max")).ok()?;
    let (granted, period) = text.trim().split_once(' ')?;
    let (granted, period): (f64, f64) = (granted.parse().ok()?, period.parse().ok()?);
    (period > 0.0).then(|| granted / period)
}

/// The soft limit of `Max locked memory` in `proc/self/limits`, in bytes.
fn locked_memory_limit(root: &Path) -> Option<u64> {
    let limits = read(root, "proc/self/limits").ok()?;
    value_of(&limits, "Max locked memory")?.split_whitespace().next()?.parse().ok()
}

/// What follows `key` on the line that begins with it.
fn value_of<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

fn read(root: &Path, path: &str) -> io::Result<String> {
    let path = root.join(path);
    std::fs::read_to_string(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display())))
}

fn parsed<T: FromStr>(root: &Path, path: &str) -> Option<T> {
    parse_file(&root.join(path))
}

fn parse_file<T: FromStr>(path: &Path) -> Option<T> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn unclear(root: &Path, path: &str, field: &str) -> io::Error {
    let message = format!("{} has no usable `{field}`", root.join(path).display());
    io::Error::new(io::ErrorKind::InvalidData, message)
}
