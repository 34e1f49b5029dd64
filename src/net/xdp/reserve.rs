//! Whether the kernel leaves our ports alone: it must neither give them to programs that ask for any port, nor have a
//! socket there already.

use std::fs;
use std::ops::RangeInclusive;

/// In words what stands against using these ports, and what to do.
pub(super) fn check(ports: &RangeInclusive<u16>) -> Result<(), String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let given = parse_range(&read("/proc/sys/net/ipv4/ip_local_port_range"));
    let reserved = parse_list(&read("/proc/sys/net/ipv4/ip_local_reserved_ports"));
    let (first, last) = (ports.start(), ports.end());
    if let Some(port) = ports.clone().find(|port| given.contains(port) && !is_in(&reserved, *port)) {
        return Err(format!(
            "port {port} of `[xdp] ports` ({first}-{last}) is one that the kernel gives to programs that ask for any: run \
             `sysctl -w net.ipv4.ip_local_reserved_ports={first}-{last}` (with those reserved already, if there are any), \
             or choose ports outside of {}-{}",
            given.start(),
            given.end()
        ));
    }
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        if let Some(port) = used(&read(table)).find(|port| ports.contains(port)) {
            return Err(format!(
                "port {port} of `[xdp] ports` ({first}-{last}) is in use (`ss -tan` shows by whom): end that, or choose \
                 other ports"
            ));
        }
    }
    Ok(())
}

/// Two numbers; the kernel's default if there is nothing.
fn parse_range(text: &str) -> RangeInclusive<u16> {
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) => first..=last,
        _ => 32_768..=60_999,
    }
}

/// `8080,61000-61999`.
fn parse_list(text: &str) -> Vec<RangeInclusive<u16>> {
    let one = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.trim().split(',').filter_map(one).collect()
}

fn is_in(list: &[RangeInclusive<u16>], port: u16) -> bool {
    list.iter().any(|range| range.contains(&port))
}

/// Local ports of a table of sockets: the second column, `00000000:0019`.
fn used(table: &str) -> impl Iterator<Item = u16> {
    table.lines().skip(1).filter_map(|line| {
        let local = line.split_whitespace().nth(1)?;
        u16::from_str_radix(local.rsplit(':').next()?, 16).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        assert_eq!(parse_range("32768\t60999\n"), 32_768..=60_999);
        let list = parse_list("8080,61000-61999\n");
        assert_eq!(list, [8_080..=8_080, 61_000..=61_999]);
        assert!(is_in(&list, 61_500) && !is_in(&list, 62_000) && parse_list("\n").is_empty());
        let table = "  sl  local_address rem_address\n   0: 0100007F:0019 00000000:0000 0A\n";
        assert_eq!(used(table).collect::<Vec<_>>(), [25]);
    }
}
