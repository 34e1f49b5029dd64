//! Memory near to the CPU that uses it, on machines where memory is not the same distance from everywhere
//! (set_mempolicy(2), mbind(2), getcpu(2)).
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::ptr;

const MPOL_DEFAULT: libc::c_int = 0;
/// Rather there than anywhere else; if that node is full, elsewhere.
const MPOL_PREFERRED: libc::c_int = 1;
/// Of get_mempolicy(2): not a policy, but the node of a page.
const MPOL_F_NODE: libc::c_ulong = 1 << 0;
const MPOL_F_ADDR: libc::c_ulong = 1 << 1;
/// Nodes there may be: the kernel's `MAX_NUMNODES` is 1024 at most.
const NODES_MAX: usize = 1024;
const WORD_BITS: usize = libc::c_ulong::BITS as usize;

/// Whether the machine has more than one node; `online` is what `/sys/devices/system/node/online` says.
fn has_several(online: &str) -> bool {
    online.contains(['-', ','])
}

/// Whether memory is at different distances from the CPUs of this machine.
pub fn has_several_nodes() -> bool {
    has_several(&fs::read_to_string("/sys/devices/system/node/online").unwrap_or_default())
}

/// The node of a CPU, if the machine says: `/sys/devices/system/cpu/cpuN/nodeM`.
pub fn node_of_cpu(cpu: u32) -> Option<u32> {
    let entries = fs::read_dir(format!("/sys/devices/system/cpu/cpu{cpu}")).ok()?;
    let mut names = entries.flatten().map(|entry| entry.file_name());
    names.find_map(|name| name.to_str()?.strip_prefix("node")?.parse().ok())
}

/// The node that a page lies on, where it is there (get_mempolicy(2)).
pub(super) fn node_of_page(start: *const u8) -> Option<u32> {
    let mut node: libc::c_int = -1;
    // SAFETY: the node is valid to write to, no mask is asked for, and the page is not touched.
    let result = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut node,
            ptr::null_mut::<libc::c_ulong>(),
            0_usize,
            start,
            MPOL_F_NODE | MPOL_F_ADDR,
        )
    };
    (result == 0).then(|| u32::try_from(node).ok()).flatten()
}

/// The node of the CPU that the caller runs on.
///
/// # Errors
/// `ENOSYS` where it is not to be had.
pub fn here() -> io::Result<u32> {
    let (mut cpu, mut node) = (0_u32, 0_u32);
    // SAFETY: both are valid to write to; the third argument has been unused since Linux 2.6.24.
    let result = unsafe {
        libc::syscall(libc::SYS_getcpu, &raw mut cpu, &raw mut node, ptr::null_mut::<libc::c_void>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(node) }
}

type Mask = [libc::c_ulong; NODES_MAX / WORD_BITS];

fn mask(node: u32) -> io::Result<Mask> {
    let mut mask: Mask = [0; NODES_MAX / WORD_BITS];
    let word = mask.get_mut(node as usize / WORD_BITS).ok_or(io::ErrorKind::InvalidInput)?;
    *word = 1 << (node as usize % WORD_BITS);
    Ok(mask)
}

/// Pages of this range that are not there yet come from that node. The range's bytes are not touched.
///
/// # Errors
/// `EINVAL` if it does not begin with a page or there is no such node; `ENOSYS` or `EPERM` where it is not to be had.
pub(super) fn prefer(start: *mut u8, bytes: usize, node: u32) -> io::Result<()> {
    let mask = mask(node)?;
    // SAFETY: the kernel changes where absent pages will lie, never what a page holds; the mask is as long as said (the
    // kernel reads one bit less than the number).
    let result = unsafe {
        libc::syscall(libc::SYS_mbind, start, bytes, MPOL_PREFERRED, mask.as_ptr(), NODES_MAX + 1, 0)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Does something with the caller's new pages coming from that node, of itself and of what the kernel maps for it.
/// Where that is not to be had it does it all the same.
pub fn on_node<T>(node: Option<u32>, work: impl FnOnce() -> T) -> T {
    let mask = node.filter(|_| has_several_nodes()).and_then(|node| mask(node).ok());
    if let Some(mask) = &mask {
        // SAFETY: the mask is as long as said, and is read only.
        unsafe { libc::syscall(libc::SYS_set_mempolicy, MPOL_PREFERRED, mask.as_ptr(), NODES_MAX + 1) };
    }
    let done = work();
    if mask.is_some() {
        // SAFETY: no mask is read for the default.
        unsafe {
            libc::syscall(libc::SYS_set_mempolicy, MPOL_DEFAULT, ptr::null::<libc::c_ulong>(), 0_usize)
        };
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_nodes_are_told_from_one() {
        for (online, several) in
            [("0\n", false), ("", false), ("0-1\n", true), ("0,2\n", true), ("1\n", false)]
        {
            assert_eq!(has_several(online), several, "{online}");
        }
    }

    #[test]
    fn memory_is_asked_for_where_the_caller_is() {
        let Ok(node) = here() else {
            return eprintln!("skipped: this kernel does not say where the caller is (getcpu)");
        };
        assert!(prefer(ptr::null_mut(), 4096, 1 << 20).is_err(), "no such node");
        assert_eq!(on_node(Some(node), || 7), 7);
        let said = node_of_cpu(0);
        assert!(said.is_none_or(|node| node < NODES_MAX as u32), "{said:?}");
        assert_eq!(node_of_cpu(1 << 20), None, "no such CPU");
        let page = vec![1_u8; 64 << 10];
        assert!(node_of_page(page.as_ptr()).is_none_or(|node| node < NODES_MAX as u32));
        assert_eq!(node_of_page(ptr::null()), None, "nothing is there");
        let arenas = crate::sys::arena::Arenas::new(1, 200).expect("an arena");
        match arenas.settle(crate::handle::ShardId(0)) {
            Ok(()) => {}
            Err(error) => assert!(
                matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)),
                "refused only where nobody may: {error}"
            ),
        }
    }
}
